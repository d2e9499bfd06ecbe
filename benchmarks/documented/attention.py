"""Paged attention by itself: a prefill beside the FMA peak, and what its parts cost."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from documented.figures import Group, Samples, Settings, Unit
from documented.machine import Call, Library, aligned_copy, compile_library, in_turns, num_threads, target_of, timed
from vamc_compiler.kernels import paged_attention, vector_math
from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.paged_attention import Shape, attention_kernel
from vamc_compiler.kernels.table import KernelTable
from vamc_compiler.kernels.tir import LANES, Kernel
from vamc_runtime.arrays import as_tensor

TOKENS, QUICK_TOKENS = 512, 20
PAGE_TOKENS = LANES


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The attention of a model."""

    key: str
    title: str
    heads: int
    kv_heads: int
    head_dim: int


MODELS = (
    Heads(key="32x64", title="32 heads of 64", heads=32, kv_heads=32, head_dim=64),
    Heads(key="12x128", title="12 heads of 128, 2 key/value heads", heads=12, kv_heads=2, head_dim=128),
)


@contextlib.contextmanager
def _without_exponentials() -> Iterator[None]:
    """Kernels that are built meanwhile take a number for its exponential."""
    with mock.patch.object(vector_math, "exp", lambda x, lanes=LANES: x):
        yield


@contextlib.contextmanager
def _without_appending() -> Iterator[None]:
    """Kernels that are built meanwhile leave the cache as it is."""
    with mock.patch.object(paged_attention._Step, "append", lambda self, token, kv_head: None):
        yield


VARIANTS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "whole": contextlib.nullcontext,
    "exponentials": _without_exponentials,
    "appending": _without_appending,
}
"""What is left out of a kernel, to see what it costs."""
SHOWN = ("prefill", "share", "exponentials", "appending")


def arguments(model: Heads, tokens: int) -> list[Any]:
    """A prefill of one sequence, rotary embedding included."""
    rng = np.random.default_rng(0)
    pages = -(-tokens // PAGE_TOKENS)
    shapes = [(tokens, model.heads), (tokens, model.kv_heads), (tokens, model.kv_heads)]
    arrays: list[Any] = [rng.uniform(-1, 1, (*shape, model.head_dim)).astype(np.float32) for shape in shapes]
    cache = rng.uniform(0.01, 0.1, (pages, 2, model.kv_heads, PAGE_TOKENS, model.head_dim)).astype(np.float16)
    positions = np.arange(tokens, dtype=np.int32)
    table = np.arange(pages, dtype=np.int32)[None]
    angles = rng.uniform(-1, 1, (2, tokens, 1, model.head_dim)).astype(np.float32)
    output = np.zeros((tokens, model.heads, model.head_dim), np.float32)
    arrays += [cache, positions, np.zeros_like(positions), table, *angles, output]
    return [as_tensor(aligned_copy(array)) for array in arrays]


def flops(model: Heads, tokens: int) -> int:
    """Queries times keys and weights times values, for the pairs that are not masked; two for each multiply-add."""
    return 4 * model.heads * model.head_dim * tokens * (tokens + 1) // 2


def _compiled(model: Heads, variant: str) -> tuple[Library, Kernel]:
    target = target_of("host")
    assert target is not None, "the host can run what it is"
    shape = Shape(model.heads, model.kv_heads, model.head_dim, model.head_dim**-0.5, alibi=False, rotary=True)
    tile = KernelTable(InstructionSet.of(target.requires)).attention
    with VARIANTS[variant]():
        kernel = attention_kernel.__wrapped__(shape, tile)  # not the remembered kernel of another variant
        return compile_library([kernel], target), kernel


def measure(settings: Settings) -> Samples:
    """Every model whole and without its parts, in turns."""
    threads, tokens = num_threads(), QUICK_TOKENS if settings.quick else TOKENS
    found: dict[str, list[float]] = {key: [] for key in UNITS}
    calls: dict[str, list[Call]] = {}
    for model in MODELS:
        inputs = arguments(model, tokens)
        compiled = [_compiled(model, variant) for variant in VARIANTS]
        calls[model.key] = [library.kernel(kernel, inputs) for library, kernel in compiled]
        peak_library = compiled[0][0]
    for _ in range(settings.rounds):
        for model in MODELS:
            peak, whole, *without = in_turns(
                settings.repeats,
                functools.partial(peak_library.peak, "fp32", threads),
                *(functools.partial(timed, call) for call in calls[model.key]),
            )
            rate = flops(model, tokens) / whole
            found[f"attention.{model.key}.prefill"].append(rate)
            found[f"attention.{model.key}.share"].append(rate / (2 * peak))
            for variant, seconds in zip(list(VARIANTS)[1:], without, strict=True):
                found[f"attention.{model.key}.{variant}"].append(1 - seconds / whole)
    return found


UNITS: dict[str, Unit] = {
    f"attention.{model.key}.{what}": "flop/s" if what == "prefill" else "share" for model in MODELS for what in SHOWN
}
GROUP = Group(name="attention", units=UNITS, measure=measure)
