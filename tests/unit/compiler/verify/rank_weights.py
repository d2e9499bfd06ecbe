"""A tiny checkpoint and the weight files of its ranks, as `vamc compile` writes them, and ways to damage them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tiny_models import tiny_source

from vamc_compiler.packing import PAIRS, PANELS, QUADS, Packing
from vamc_compiler.parameters import Origin, ParameterSpec
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.trace import rank_module
from vamc_compiler.verify.weights import WeightProblem, WeightsCheck, check_weights
from vamc_compiler.weights.checkpoint import Checkpoint, open_checkpoint
from vamc_compiler.weights.writer import plan_rank_file, write_rank_files
from vamc_runtime.safetensors_file import read_header, tensor_views

PACKINGS: dict[str, Packing] = {"float16": PANELS, "bfloat16": PAIRS, "int8": QUADS}
PRECISIONS = {
    "fp16": ModelPrecision(),
    "bf16": ModelPrecision(unquantized="bfloat16"),
    "int8_per_channel": ModelPrecision(quantization="int8_per_channel"),
    "w8a8_dynamic with head": ModelPrecision(quantization="w8a8_dynamic", lm_head=True),
}
Ranks = list[list[ParameterSpec]]


def list_ranks(directory: Path, family: str, num_ranks: int, precision: ModelPrecision, **changes: object) -> Ranks:
    return rank_module.list_ranks(tiny_source(directory, family, **changes), num_ranks, precision)


def save_checkpoint(directory: Path, ranks: Ranks, dtype: torch.dtype) -> Checkpoint:
    """Random tensors of all magnitudes for everything that the ranks read."""
    generator = torch.Generator().manual_seed(1)
    state: dict[str, torch.Tensor] = {}
    for spec in ranks[0]:
        if isinstance(spec.origin, Origin) and not spec.origin.is_per_row:
            values = torch.randn(spec.full_shape, generator=generator)
            values *= torch.exp2(torch.randint(-6, 3, values.shape[:1], generator=generator)).reshape(
                -1, *[1] * (values.ndim - 1)
            )
            (tensor,) = spec.tensors
            state[tensor] = values.to(dtype)
    save_file(state, directory / "model.safetensors")
    return open_checkpoint(directory)


@dataclass
class Build:
    """A checkpoint, and the rank files that were written from it."""

    folder: Path
    ranks: Ranks
    checkpoint: Checkpoint

    def check(self, on_progress: Callable[[int, int], None] = lambda done, total: None) -> WeightsCheck:
        return check_weights(self.folder, self.ranks, self.checkpoint, on_progress)

    def path(self, rank: int) -> Path:
        return self.folder / f"rank_{rank}" / "params.safetensors"

    @contextmanager
    def edit(self, rank: int, name: str) -> Iterator[np.ndarray[Any, Any]]:
        """A stored tensor, packed as it is, to be changed in place."""
        file = np.memmap(self.path(rank), np.uint8, "r+")
        yield dict(tensor_views(read_header(self.path(rank)), file))[name]
        file.flush()

    def only_problem(self) -> WeightProblem:
        problems = self.check().problems
        assert len(problems) == 1, "\n".join(map(str, problems))
        return problems[0]


def packings_of(ranks: Ranks) -> dict[str, Packing]:
    """What a compile packs: matrices but the embedding."""
    return {
        spec.name: PACKINGS[spec.dtype]
        for spec in ranks[0]
        if len(spec.shape) == 2 and spec.dtype in PACKINGS and "embed" not in spec.name
    }


def write_files(folder: Path, ranks: Sequence[Sequence[ParameterSpec]], checkpoint: Checkpoint) -> Build:
    packings = packings_of([list(specs) for specs in ranks])
    files = [
        plan_rank_file(folder / f"rank_{rank}" / "params.safetensors", specs, packings, {"rank": str(rank)})
        for rank, specs in enumerate(ranks)
    ]
    write_rank_files(files, checkpoint, num_workers=1, on_progress=lambda done, total: None)
    return Build(folder, [list(specs) for specs in ranks], checkpoint)


def make_build(
    folder: Path,
    family: str,
    num_ranks: int,
    precision: str = "fp16",
    dtype: torch.dtype = torch.bfloat16,
    **changes: object,
) -> Build:
    checkpoint = folder / "checkpoint"
    ranks = list_ranks(checkpoint, family, num_ranks, PRECISIONS[precision], **changes)
    return write_files(folder / "runstream", ranks, save_checkpoint(checkpoint, ranks, dtype))


def num_elements(ranks: Ranks) -> int:
    return sum(math.prod(spec.shape) for specs in ranks for spec in specs)
