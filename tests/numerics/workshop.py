"""Small random models, built clean or with a mutation's patch in effect."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import shutil
import sys
import textwrap
from __future__ import annotations as future
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FunctionType
from typing import Any
from unittest import mock

import torch
from mutations import SOURCE_CODE, Case, Edit, Mutation
from rank_bytes import record_again
from safetensors.torch import save_file

from vamc_compiler.compile import CompileRequest, build_runstream, check_inputs, subject_of
from vamc_compiler.config import load_config
from vamc_compiler.graph import RankGraph, make_rank_graph
from vamc_compiler.model.registry import ModelSource
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.stages import SilentReporter, Stages
from vamc_compiler.trace.rank_module import build_rank, list_parameters
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.verification import EVERYTHING, Part, Request, verify
from vamc_compiler.verify.result import VerificationReport
from vamc_compiler.weights.checkpoint import open_checkpoint

