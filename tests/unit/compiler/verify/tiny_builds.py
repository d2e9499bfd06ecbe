"""Tiny models with random weights in every form that a verification runs: modules, graphs, compiled.

The weights are scaled so that attention looks at few tokens and logits differ: a fault in any block then shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import save_file
from tiny_models import SOURCE_CODE, tiny_source

from vamc_compiler.config import BuildConfig, load_config
from vamc_compiler.graph import PAGE_TOKENS, RankGraph, make_rank_graph
from vamc_compiler.model.registry import ModelSource, find_model
from vamc_compiler.parameters import Origin, ParameterSpec
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.stages import SilentReporter, Stages
from vamc_compiler.trace.rank_module import build_rank, list_parameters
from vamc_compiler.verify.build import build_subject
from vamc_compiler.verify.graph_stage import GraphStage
from vamc_compiler.verify.modeling_stage import ModelingStage
from vamc_compiler.verify.parameters import RankParameters
from vamc_compiler.verify.run import Array, Run
from vamc_compiler.verify.steps import even_chunks, plan_steps
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.taps import TapPlan, plan_taps
from vamc_compiler.weights.checkpoint import Checkpoint, open_checkpoint
from vamc_runtime.executor import StepArguments

NUM_TOKENS = 37  # three cache pages, the last one not full
SEQUENCE = tuple(np.random.default_rng(7).integers(50, size=NUM_TOKENS).tolist())
CONFIG = """\
name: tiny
frontend:
  type: huggingface
  checkpoint: {checkpoint}
  shape: {{input_ids: [[48], [64]]}}
{quantize}
backend: {{dtype: {dtype}}}
workspace: {{path: {workspace}, workers: 1}}
verify: {{tokens: 48}}
"""


def write_weights(directory: Path, source: ModelSource) -> Checkpoint:
    """Random weights for a checkpoint that has its config."""
    with torch.device("meta"):
        specs = list_parameters(build_rank(source, source.config.for_rank(0, 1), ModelPrecision()))
    generator = torch.Generator().manual_seed(3)
    state = {}
    for spec in specs:
        if not isinstance(spec.origin, Origin):
            continue
        values = torch.randn(spec.shape, generator=generator)
        if len(spec.shape) == 1:
            values = 1 + 0.3 * values
        elif "embed" not in spec.name:
            values *= (2.5 if any(part in spec.name for part in ("q_proj", "k_proj")) else 1.5) / spec.shape[1] ** 0.5
        (tensor,) = spec.tensors
        state[tensor] = values.to(torch.bfloat16)
    save_file(state, directory / "model.safetensors")
    return open_checkpoint(directory)


@dataclass(frozen=True)
class TinyBuild:
    """A model on some ranks, up to its graphs."""

    source: ModelSource
    checkpoint: Checkpoint
    precision: ModelPrecision
    graphs: tuple[RankGraph, ...]

    @property
    def num_ranks(self) -> int:
        return len(self.graphs)

    @property
    def parameters(self) -> list[tuple[ParameterSpec, ...]]:
        return [graph.parameters for graph in self.graphs]

    @cached_property
    def plan(self) -> TapPlan:
        return plan_taps(self.graphs[0].model(), self.parameters)

    def models(self, *, traced: bool = False) -> list[onnx.ModelProto]:
        return [onnx.load_from_string(graph.traced) if traced else graph.model() for graph in self.graphs]

    def rank_parameters(self) -> list[RankParameters]:
        return [RankParameters(self.checkpoint, own, 1 << 30) for own in self.parameters]

    def graph_stage(
        self, *, traced: bool = False, segment_bytes: int = 1 << 30, models: list[onnx.ModelProto] | None = None
    ) -> GraphStage:
        models = models or self.models(traced=traced)
        return GraphStage(
            "exported ONNX" if traced else "simplified ONNX",
            models,
            self.rank_parameters(),
            plan_taps(models[0], self.parameters),
            segment_bytes=segment_bytes,
            cache_shape=(2, self.graphs[0].num_kv_slots, PAGE_TOKENS, self.source.config.head_dim),
            num_threads=1,
        )

    def modeling_stage(self, **options: Any) -> ModelingStage:
        return ModelingStage(
            "modeling file",
            self.source,
            self.precision,
            self.rank_parameters(),
            self.plan,
            page_tokens=PAGE_TOKENS,
            **options,
        )


def make_build(
    directory: Path, family: str, num_ranks: int, precision: ModelPrecision | None = None, **changes: object
) -> TinyBuild:
    """Trace one rank; the others differ from it only in their parameters."""
    precision = precision or ModelPrecision()
    source = tiny_source(directory, family, **changes)
    checkpoint = write_weights(directory, source)
    first = make_rank_graph(source, num_ranks, precision, 0)
    graphs = []
    for rank in range(num_ranks):
        with torch.device("meta"):
            specs = list_parameters(build_rank(source, source.config.for_rank(rank, num_ranks), precision))
        graphs.append(replace(first, rank=rank, parameters=tuple(specs)))
    return TinyBuild(source, checkpoint, precision, tuple(graphs))


def build_of(subject: Subject) -> TinyBuild:
    """The forms before the compiled one."""
    return TinyBuild(subject.source, subject.checkpoint, subject.precision, subject.graphs)


def write_build(directory: Path, family: str, quantization: str = "", **changes: object) -> BuildConfig:
    """A checkpoint in `directory` and a config of one rank."""
    checkpoint = directory / "checkpoint"
    tiny_source(checkpoint, family, **changes)
    write_weights(checkpoint, find_model(checkpoint, SOURCE_CODE, trust_checkpoint_code=False))
    path = directory / "build.yaml"
    path.write_text(
        CONFIG.format(
            checkpoint=checkpoint,
            quantize=f"  quantize: {{type: {quantization}}}" if quantization else "",
            dtype="int8" if quantization else "fp16",
            workspace=directory / "workspace",
        ),
        encoding="utf-8",
    )
    return load_config(path)


def compile_tiny(directory: Path, family: str, quantization: str = "", **changes: object) -> Subject:
    """Compiled into `directory`, with everything that a verification takes."""
    config = write_build(directory, family, quantization, **changes)
    return build_subject(config, directory / "runstream", Stages(SilentReporter()))


def steps_of(chunk_tokens: int = NUM_TOKENS) -> list[StepArguments]:
    """The sequence, in chunks."""
    return plan_steps(SEQUENCE, even_chunks(NUM_TOKENS, chunk_tokens), PAGE_TOKENS)


def streams_of(run: Run, plan: TapPlan) -> dict[str, Array]:
    """What another stage is fed."""
    return {name: run.taps[name].whole() for name in plan.streams}


def assert_same_runs(found: Run, expected: Run, tolerance: float) -> None:
    """Logits and all taps, each relative to its largest value; padding is not compared."""
    assert set(found.taps) == set(expected.taps)
    pairs = {name: (found.taps[name].whole(), expected.taps[name].whole()) for name in expected.taps}
    for name, (ours, theirs) in {"logits": (found.logits, expected.logits), **pairs}.items():
        assert ours.shape == theirs.shape, name
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max(), name
