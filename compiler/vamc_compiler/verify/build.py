"""Compiling what is to be verified, into a folder that is thrown away afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vamc_compiler.compile import CompileRequest, build_runstream, check_inputs, check_space, subject_of
from vamc_compiler.config import BuildConfig
from vamc_compiler.publish import remove_dead
from vamc_compiler.stages import Stages
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.tokens import tokens_of
from vamc_runtime.errors import UserError

PREFIX = ".vamc-verify-"
"""Of scratch folders; the number of the process follows."""


@contextlib.contextmanager
def scratch_folder(workspace: Path, stages: Stages) -> Iterator[Path]:
    """A folder on the disk of the workspace, which has room for runstreams, else a temporary one; removed at the end.

    The folders of verifications that were killed are removed too.

    Raises:
        UserError: neither can be written.
    """
    above = next(parent for parent in (workspace, *workspace.parents) if parent.exists())
    place = above if os.access(above, os.W_OK) else Path(tempfile.gettempdir())
    remove_dead(place, PREFIX)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
    except OSError as error:
        raise UserError(
            f"{place} cannot be written: {error.strerror}",
            expected="room for what is compiled to be verified",
            fix="set TMPDIR to a folder with room for a runstream",
        ) from error
    stages.folder = folder
    stages.reporter.scratch(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build_subject(config: BuildConfig, folder: Path, stages: Stages, *, trust_checkpoint_code: bool = False) -> Subject:
    """Compile a config into `folder`, which is made.

    Raises:
        UserError: anything about the config, the checkpoint or the machine that stands in the way.
    """
    request = CompileRequest(config=config, trust_checkpoint_code=trust_checkpoint_code)
    inputs = check_inputs(request, stages.reporter)
    # A mistake about the text shows before the work.
    tokens_of(config, inputs.tokenizer.folder, inputs.source.config.vocab_size)
    check_space(inputs, folder.parent)
    folder.mkdir()
    return subject_of(config, inputs, build_runstream(request, inputs, folder, stages))


def on_one_rank(config: BuildConfig) -> BuildConfig:
    """The same build without tensor parallelism."""
    kwargs = replace(config.frontend.model_kwargs, tp=1)
    return replace(config, frontend=replace(config.frontend, model_kwargs=kwargs), warnings=())
