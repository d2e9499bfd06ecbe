"""The linear kernels against float64, on sizes that fit no tile, on the host's CPU and the lowest one."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from compiled_kernels import TARGETS, Array, compile_kernels, to_device, with_threads

from vamc_compiler.kernels.linear_panel import LANES, ROW_TILE
from vamc_compiler.kernels.table import KernelTable

KERNELS = KernelTable("llvm")
SIZES = [(1, 1), (16, 16), (15, 3), (33, 5), (100, 37), (64, 129), (2 * LANES, 1)]
"""Outputs and inputs of the layers."""
MANY_PANELS = (1031, 24)
TOKENS = [*range(1, 20), 67, 256, 301]
EPSILON = 2.0**-23


def names(op: str, outputs: int, inputs: int) -> str:
    return f"{op}_{outputs}x{inputs}"


def compile_all(target: str) -> Any:
    kernels = {}
    for op in ("Linear", "QuantizedLinearPerChannel"):
        kernel = KERNELS.for_op(op)
        assert kernel.packing is not None
        for o, i in (*SIZES, MANY_PANELS):
            dtype = "float16" if op == "Linear" else "int8"
            inputs = [(("n", i), "float32"), (kernel.packing.packed_shape((o, i)), dtype)]
            if op == "QuantizedLinearPerChannel":
                inputs.append(((o,), "float32"))

            def emit(builder: Any, *arguments: Any, kernel: Any = kernel, width: int = o) -> Any:
                return kernel.emit(builder, *arguments, out_features=width)

            kernels[names(op, o, i)] = (inputs, emit)
    return compile_kernels(kernels, target)


@pytest.fixture(scope="module", params=TARGETS)
def machine(request: pytest.FixtureRequest) -> Any:
    return compile_all(request.param)


def run(machine: Any, x: Array, weight: Array, scale: Array | None = None) -> Array:
    op = "Linear" if scale is None else "QuantizedLinearPerChannel"
    packing = KERNELS.for_op(op).packing
    assert packing is not None
    arguments = [x, packing.pack(weight), *([] if scale is None else [scale])]
    found: Array = machine[names(op, *weight.shape)](*map(to_device, arguments)).numpy()
    return found


def assert_close(found: Array, x: Array, weight: Array, scale: Array | None = None) -> None:
    """Within the rounding of a float32 sum of that many terms."""
    exact_x, exact_weight = x.astype(np.float64), weight.astype(np.float64)
    if scale is not None:
        exact_weight = exact_weight * scale[:, None].astype(np.float64)
    exact = exact_x @ exact_weight.T
    bound = (x.shape[1] + 3) * EPSILON * (np.abs(exact_x) @ np.abs(exact_weight).T) + 1e-44
    assert found.shape == exact.shape and found.dtype == np.float32
    wrong = np.argwhere(~(np.abs(found - exact) <= bound))
    assert not len(wrong), f"{len(wrong)} values differ, the first at {wrong[0]}"


def random_half(rng: np.random.Generator, o: int, i: int) -> Array:
    return rng.standard_normal((o, i)).astype(np.float16)


def random_int8(rng: np.random.Generator, o: int, i: int) -> tuple[Array, Array]:
    quantized = rng.integers(-127, 128, (o, i)).astype(np.int8)
    return quantized, np.exp(rng.uniform(-9, 0, o)).astype(np.float32)


@pytest.mark.parametrize(("o", "i"), SIZES)
def test_float16(machine: Any, o: int, i: int) -> None:
    rng = np.random.default_rng(o)
    weight = random_half(rng, o, i)
    for n in TOKENS:
        x = rng.standard_normal((n, i)).astype(np.float32)
        assert_close(run(machine, x, weight), x, weight)


@pytest.mark.parametrize(("o", "i"), SIZES)
def test_int8(machine: Any, o: int, i: int) -> None:
    rng = np.random.default_rng(o)
    weight, scale = random_int8(rng, o, i)
    for n in TOKENS:
        x = rng.standard_normal((n, i)).astype(np.float32)
        assert_close(run(machine, x, weight, scale), x, weight, scale)


def test_every_half_is_converted_exactly(machine: Any) -> None:
    """Subnormals, the largest, both zeros: 16 rows of one column each, input 1."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    ones = np.ones((1, 1), np.float32)
    kernel = machine[names("Linear", 16, 16)]
    packing = KERNELS.for_op("Linear").packing
    assert packing is not None
    columns = np.resize(finite, (-(-len(finite) // 256), 16, 16))
    selector = np.eye(16, dtype=np.float32)
    for block in columns:
        found = kernel(to_device(selector), to_device(packing.pack(block))).numpy()
        np.testing.assert_array_equal(found, block.T.astype(np.float32))
    assert run(machine, ones, np.array([[2.0**-24]], np.float16)).item() == 2.0**-24


def test_every_int8_is_converted_exactly(machine: Any) -> None:
    block = np.arange(-128, 128).astype(np.int8).reshape(16, 16)
    scale = np.ones(16, np.float32)
    np.testing.assert_array_equal(run(machine, np.eye(16, dtype=np.float32), block, scale), block.T)


def test_zero_rows_stay_zero(machine: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROW_TILE + 1, 5)).astype(np.float32)
    weight, (quantized, scale) = random_half(rng, 33, 5), random_int8(rng, 33, 5)
    weight[[0, 16, 32]], quantized[[0, 16, 32]] = 0, 0
    for found in (run(machine, x, weight), run(machine, x, quantized, scale)):
        assert not found[:, [0, 16, 32]].any()
        assert np.delete(found, [0, 16, 32], 1).all()


def test_extreme_scales(machine: Any) -> None:
    rng = np.random.default_rng(0)
    quantized, _ = random_int8(rng, 33, 5)
    x = rng.standard_normal((9, 5)).astype(np.float32)
    for scale in (1e-30, 1e-6, 1e6, 1e30):
        scales = np.full(33, scale, np.float32)
        scales[::2] = 1
        assert_close(run(machine, x, quantized, scales), x, quantized, scales)


def test_extreme_inputs(machine: Any) -> None:
    weight = np.full((33, 5), 65504, np.float16)
    x = np.full((9, 5), 1e30, np.float32)
    assert_close(run(machine, x, weight), x, weight)
    assert_close(run(machine, x / np.float32(1e34), weight), x / np.float32(1e34), weight)


def test_a_token_does_not_depend_on_its_neighbours(machine: Any) -> None:
    """Bit by bit: what a user sees must not depend on who else is in the batch."""
    rng = np.random.default_rng(5)
    x, weight = rng.standard_normal((19, 37)).astype(np.float32), random_half(rng, 100, 37)
    together = run(machine, x, weight)
    alone = np.concatenate([run(machine, row[None], weight) for row in x])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_threads_equal_one(machine: Any) -> None:
    """Panels are spread over threads; a sum shared between them would show within a few runs."""
    rng = np.random.default_rng(3)
    o, i = MANY_PANELS
    weight, (quantized, scale) = random_half(rng, o, i), random_int8(rng, o, i)
    for n in (1, 7, 8, 33):
        x = rng.standard_normal((n, i)).astype(np.float32)

        def both(x: Array = x) -> tuple[Array, Array]:
            return run(machine, x, weight), run(machine, x, quantized, scale)

        single = with_threads(1, both)
        assert_close(single[0], x, weight)
        assert_close(single[1], x, quantized, scale)
        for pair in with_threads(2, lambda both=both: [both() for _ in range(50)]):
            np.testing.assert_array_equal(pair[0], single[0])
            np.testing.assert_array_equal(pair[1], single[1])


def test_a_kernel_for_an_unknown_target_is_missing() -> None:
    with pytest.raises(KeyError):
        KernelTable("cuda").for_op("Linear")
