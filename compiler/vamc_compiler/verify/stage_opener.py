"""Opening the stages of one build, each with the memory it may use, and the ways in which they get the tokens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from vamc_compiler.graph import PAGE_TOKENS, RankGraph, parse_model
from vamc_compiler.parameters import ParameterSpec
from vamc_compiler.precision import FLOAT32, ModelPrecision
from vamc_compiler.verify.compare import Form
from vamc_compiler.verify.compiled_stage import CompiledStage
from vamc_compiler.verify.graph_stage import GraphStage
from vamc_compiler.verify.modeling_stage import ModelingStage
from vamc_compiler.verify.parameters import RankParameters
from vamc_compiler.verify.reference import open_reference
from vamc_compiler.verify.reference_stage import ReferenceStage
from vamc_compiler.verify.result import FLOAT32_STAGE
from vamc_compiler.verify.run import Stage
from vamc_compiler.verify.steps import decode_chunks, even_chunks, odd_chunks
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.taps import TapPlan, plan_taps
from vamc_runtime.machine import available_memory_bytes
from vamc_runtime.runstream import choose_library, open_runstream

DECODED_TOKENS = 24
"""Tokens at the end of each sequence that the check of cached decode computes one by one."""
_SMALLEST_SHARE_BYTES = 256 << 20
Weights = Literal["float32", "one rank", "ranks"]
"""Of which stages: the modeling file in float32, the one on one rank, or modeling files and graphs over ranks."""


def count_ranks(number: int) -> str:
    """A number of ranks, for people."""
    return f"{number} rank{'s' * (number > 1)}"


def memory_share() -> int:
    """Bytes that one of the stages may keep of the weights: an eighth of what is free."""
    return max(_SMALLEST_SHARE_BYTES, available_memory_bytes() // 8)


class StageOpener:
    """Makes the stages of a build.

    Args:
        subject: the build.
        plan: taps of its graph.
        share_bytes: what each stage may keep of the weights.
        stack: what has to be closed at the end.
    """

    def __init__(self, subject: Subject, plan: TapPlan, share_bytes: int, stack: contextlib.ExitStack) -> None:
        self._subject = subject
        self._plan = plan
        self._share_bytes = share_bytes
        self._stack = stack
        self._most_tokens = subject.manifest.limits.max_prefill_tokens
        self._opened: dict[Weights, list[RankParameters]] = {}

    # The ways to get the tokens

    def whole(self, stage: Stage) -> Form:
        """In as few steps as the build takes."""
        return Form(stage=stage, chunks=lambda length: even_chunks(length, self._most_tokens))

    def chunked(self, stage: Stage) -> Form:
        """In steps that begin and end anywhere within a cache page."""
        return Form(stage=stage, chunks=lambda length: odd_chunks(length, self._most_tokens), label="in chunks")

    def decoded(self, stage: Stage) -> Form:
        """A prefill, then one token at a time."""

        def chunks(length: int) -> Sequence[int]:
            return decode_chunks(length, min(DECODED_TOKENS, length // 2), self._most_tokens)

        return Form(stage=stage, chunks=chunks, label="token by token")

    # The stages

    def original(self, *, trust_checkpoint_code: bool) -> tuple[Form, str, Callable[[], None]] | None:
        """The original, what it is, and how to give its memory back; None where there is none.

        Raises:
            UserError: see `open_reference`.
        """
        opened = open_reference(
            self._subject.checkpoint.directory,
            self._subject.checkpoint,
            trust_checkpoint_code=trust_checkpoint_code,
            cache_bytes=self._share_bytes,
            norm_head=self._subject.config.frontend.model_kwargs.norm_head,
        )
        return None if opened is None else (self.whole(ReferenceStage(opened)), opened.description, opened.close)

    def modeling_in_float32(self) -> Form:
        """The modeling file in torch, not split; weights and cache are not rounded."""
        parameters = self._parameters("float32", lambda: [self._subject.single_parameters(FLOAT32)])
        plan = self._plan.for_one_rank()
        return self._modeling(FLOAT32_STAGE, parameters, plan, FLOAT32, cache_dtype=torch.float32)

    def modeling_on_one_rank(self) -> Form:
        """The modeling file in torch, not split."""
        precision = self._subject.precision
        parameters = self._parameters("one rank", lambda: [self._subject.single_parameters(precision)])
        return self._modeling("modeling file, 1 rank", parameters, self._plan.for_one_rank(), precision)

    def modeling_over_ranks(self) -> Form:
        """The modeling file in torch, every rank."""
        parameters = self._rank_parameters()
        name = f"modeling file, {count_ranks(len(parameters))}"
        return self._modeling(name, parameters, self._plan, self._subject.precision)

    def _modeling(
        self,
        name: str,
        parameters: Sequence[RankParameters],
        plan: TapPlan,
        precision: ModelPrecision,
        cache_dtype: torch.dtype = torch.float16,
    ) -> Form:
        source = self._subject.source
        stage = ModelingStage(
            name, source, precision, parameters, plan, page_tokens=PAGE_TOKENS, cache_dtype=cache_dtype
        )
        return self.whole(stage)

    def exported(self) -> Form:
        """The traced graphs in onnxruntime."""
        return self._graph("exported", lambda graph: graph.traced)

    def simplified(self) -> Form:
        """The simplified graphs in onnxruntime."""
        return self._graph("simplified", lambda graph: graph.simplified)

    def _graph(self, kind: str, of_rank: Callable[[RankGraph], bytes]) -> Form:
        models = [parse_model(of_rank(graph)) for graph in self._subject.graphs]
        kv = self._subject.manifest.kv_cache
        stage = GraphStage(
            f"{kind} ONNX, {count_ranks(len(models))}",
            models,
            self._rank_parameters(),
            plan_taps(models[0], self._subject.parameters),
            segment_bytes=self._share_bytes,
            cache_shape=(2, kv.num_heads, PAGE_TOKENS, kv.head_dim),
            num_threads=len(os.sched_getaffinity(0)),
        )
        return self.whole(stage)

    def compiled(self, subject: Subject, max_tokens: int) -> tuple[CompiledStage, str]:
        """The runstream of this build or of the same model on one rank, and the mcpu of the library that runs.

        Args:
            subject: which of the two.
            max_tokens: longest sequence.

        Raises:
            UserError: it cannot run here.
        """
        runstream = open_runstream(subject.runstream)
        plan = self._plan if subject is self._subject else self._plan.for_one_rank()
        name = f"compiled, {count_ranks(subject.num_ranks)}"
        stage = CompiledStage(name, runstream, plan, max_tokens=max_tokens)
        return self._stack.enter_context(stage), choose_library(runstream).mcpu

    # Weights

    def _parameters(
        self, weights: Weights, ranks: Callable[[], Sequence[Sequence[ParameterSpec]]]
    ) -> list[RankParameters]:
        """Those of every rank, opened once and shared by the stages that hold the same."""
        if weights not in self._opened:
            specs = ranks()
            share = self._share_bytes // len(specs)
            self._opened[weights] = [RankParameters(self._subject.checkpoint, rank, share) for rank in specs]
        return self._opened[weights]

    def _rank_parameters(self) -> list[RankParameters]:
        return self._parameters("ranks", lambda: self._subject.parameters)

    def release(self, weights: Weights) -> None:
        """Give back what is kept of some weights; a later run of their stages reads them again."""
        for parameters in self._opened.get(weights, ()):
            parameters.release()
