"""Linear kernels by themselves: prefill beside the peak of their multiply-adds, one token beside a plain read."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from documented.arithmetics import ROWS, Row
from documented.figures import Group, Samples, Settings, Unit
from documented.machine import (
    Array,
    Call,
    Library,
    aligned_copy,
    compile_library,
    in_turns,
    num_threads,
    target_of,
    timed,
)
from vamc_compiler.kernels.linear import Arithmetic, linear_kernel
from vamc_compiler.kernels.table import ANY_TOKENS
from vamc_compiler.kernels.tir import Kernel
from vamc_compiler.weights.shards import to_bfloat16
from vamc_runtime.arrays import as_tensor

SHAPES = ((5632, 2048), (2048, 2048))
"""Outputs and inputs of the layers: feed-forward and attention of a model of 1.3 B parameters."""
TOKENS = 512
WEIGHT_BYTES = 128 << 20
"""Copies of a layer's weight that one token reads in turn: far more than the caches hold."""
QUICK_SHAPES, QUICK_TOKENS, QUICK_WEIGHT_BYTES = ((48, 64),), 17, 1 << 14
PEAKS = ("int8", "bf16", "fp32")


def random_inputs(arithmetic: Arithmetic, tokens: int, inputs: int) -> list[Any]:
    """Tensors of random activations as the arithmetic takes them; what a value is has no influence on time."""
    rng = np.random.default_rng(0)
    tensors: list[Array] = []
    for shape, dtype in arithmetic.form.tensors(tokens, inputs):
        if dtype in ("float32", "uint16"):
            values = rng.uniform(0.1, 1, shape).astype(np.float32)
            tensors.append(values if dtype == "float32" else to_bfloat16(values))
        else:
            tensors.append(rng.integers(1, 127, shape).astype(dtype))
    return [as_tensor(aligned_copy(tensor)) for tensor in tensors]


def random_weight(weight_dtype: str, outputs: int, inputs: int) -> Array:
    """A weight [outputs, inputs] before packing: int8, float16 or the bits of bfloat16."""
    rng = np.random.default_rng(1)
    if weight_dtype == "int8":
        return rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    weight = rng.uniform(-1, 1, (outputs, inputs)).astype(np.float32)
    return weight.astype(np.float16) if weight_dtype == "float16" else to_bfloat16(weight)


def kernel_of(arithmetic: Arithmetic, shape: tuple[int, int]) -> Kernel:
    """The kernel of a layer (outputs, inputs) with one arithmetic for any number of tokens."""
    outputs, inputs = shape
    return linear_kernel(((ANY_TOKENS, arithmetic),), inputs, outputs, arithmetic.weight_dtype == "int8")


class Layer:
    """One layer's kernel over copies of a weight that fill `weight_bytes`, at least one."""

    def __init__(self, arithmetic: Arithmetic, library: Library, shape: tuple[int, int], weight_bytes: int) -> None:
        """`library` holds `kernel_of(arithmetic, shape)`."""
        self._arithmetic, self._library, self._shape = arithmetic, library, shape
        # The pair layout holds bfloat16, whatever type its elements are read as.
        dtype = arithmetic.weight_dtype if arithmetic.weight_dtype in ("int8", "float16") else "bfloat16"
        packed = arithmetic.packing.pack(random_weight(dtype, *shape))
        self.weights = [aligned_copy(packed) for _ in range(max(1, weight_bytes // packed.nbytes))]
        self._scale = [as_tensor(aligned_copy(np.ones(shape[0], np.float32)))] if dtype == "int8" else []

    def multiply_adds(self, tokens: int) -> int:
        """Of one call."""
        return tokens * self._shape[0] * self._shape[1]

    def one(self, tokens: int) -> Call:
        """A call over the first copy of the weight."""
        return self._calls(tokens, 1)[0]

    def all(self, tokens: int) -> Call:
        """A call over every copy of the weight."""
        calls = self._calls(tokens, len(self.weights))

        def run() -> None:
            for call in calls:
                call()

        return run

    def read(self) -> float:
        """Seconds of a plain read of every copy."""
        return self._library.read_seconds(self.weights)

    def _calls(self, tokens: int, count: int) -> list[Call]:
        outputs, inputs = self._shape
        x = random_inputs(self._arithmetic, tokens, inputs)
        y = as_tensor(aligned_copy(np.zeros((tokens, outputs), np.float32)))
        kernel = kernel_of(self._arithmetic, self._shape)
        # A weight read as another type of the same width, as `packing` leaves it.
        weights = [as_tensor(weight.view(self._arithmetic.weight_dtype)) for weight in self.weights[:count]]
        return [self._library.kernel(kernel, [*x, weight, *self._scale, y]) for weight in weights]


def compiled_layer(row: Row, shape: tuple[int, int], weight_bytes: int) -> tuple[Layer, Library] | None:
    """A row's layer; None where this machine cannot run it."""
    arithmetic, target = row.arithmetic(), target_of(row.mcpu)
    if arithmetic is None or target is None:
        return None
    library = compile_library([kernel_of(arithmetic, shape)], target)
    return Layer(arithmetic, library, shape, weight_bytes), library


def measure(settings: Settings) -> Samples:
    """Every row over both shapes, round by round."""
    threads = num_threads()
    tokens = QUICK_TOKENS if settings.quick else TOKENS
    weight_bytes = QUICK_WEIGHT_BYTES if settings.quick else WEIGHT_BYTES
    found: dict[str, list[float]] = {}
    layers = [
        (row, *compiled)
        for row in ROWS
        for shape in (QUICK_SHAPES if settings.quick else SHAPES)
        if (compiled := compiled_layer(row, shape, weight_bytes if row.decodes else 0)) is not None
    ]
    for _ in range(settings.rounds):
        for row, layer, library in layers:
            peak, seconds = in_turns(
                settings.repeats,
                functools.partial(library.peak, row.peak, threads),
                functools.partial(timed, layer.one(tokens)),
            )
            rate = layer.multiply_adds(tokens) / seconds
            found.setdefault(f"linear.{row.key}.prefill", []).append(2 * rate)
            found.setdefault(f"linear.{row.key}.share", []).append(rate / (peak * row.peak_share))
            if row.mcpu == "host":  # older levels have other instructions for the same types
                found.setdefault(f"peak.{row.peak}", []).append(2 * peak)
            if row.decodes:
                read, seconds = in_turns(settings.repeats, layer.read, functools.partial(timed, layer.all(1)))
                found.setdefault(f"linear.{row.key}.one", []).append(read / seconds)
    return found


UNITS: dict[str, Unit] = {
    **{f"peak.{kind}": "op/s" if kind == "int8" else "flop/s" for kind in PEAKS},
    **{f"linear.{row.key}.prefill": "op/s" if row.peak == "int8" else "flop/s" for row in ROWS},
    **{f"linear.{row.key}.share": "share" for row in ROWS},
    **{f"linear.{row.key}.one": "share" for row in ROWS if row.decodes},
}
GROUP = Group(name="linear", units=UNITS, measure=measure)
