"""Functions that measure the machine really read everything and really multiply, on every level of CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from compiled_kernels import TARGETS, to_device, with_threads

from vamc_compiler.kernels.roof import roof_functions
from vamc_compiler.relax_stage.targets import host_target, resolve_targets

BLOCK_BYTES = 1 << 18
ITERATIONS = 11
OPERANDS = np.array([[0x3F003F00] * 16, [0x3F803F80] * 16], np.int32)
# As float32 about 0.5 and 1, and s = s / 2 + 1; as bfloat16 twice 0.5 and twice 1; as bytes 0, 63 and -128, 63, twice.
SUMS = {
    "fp32": pytest.approx(2 - 2.0 ** (1 - ITERATIONS), rel=0.01),
    "bf16": ITERATIONS,
    "int8": 1 + ITERATIONS * 2 * 63 * 63,
}


@pytest.fixture(scope="module", params=TARGETS)
def library(request: pytest.FixtureRequest) -> Any:
    target = host_target() if request.param == "host" else resolve_targets((request.param,))[0]
    functions = roof_functions(frozenset(target.requires))
    return functions, tvm.compile(tvm.IRModule(functions), target=target.tvm_target()), target


def test_names(library: Any) -> None:
    functions, _, target = library
    expected = {"vamc_stream_read", "vamc_peak_fp32", "vamc_peak_int8"}
    if "avx512_bf16" in target.requires:
        expected.add("vamc_peak_bf16")
    assert functions.keys() == expected
    assert all(function.attrs["global_symbol"] == name for name, function in functions.items())


@pytest.mark.parametrize("num_bytes", [64, 9 * 64, BLOCK_BYTES, BLOCK_BYTES + 64, 5 * BLOCK_BYTES - 192])
def test_every_byte_is_read_once(library: Any, num_bytes: Any) -> None:
    data = np.random.default_rng(num_bytes).integers(0, 256, num_bytes, np.uint8)
    sums = to_device(np.zeros((-(-num_bytes // BLOCK_BYTES), 16), np.int32))
    with_threads(2, lambda: library[1]["vamc_stream_read"](to_device(data), sums))
    expected = data.view(np.int32).reshape(-1, 16).sum(0, dtype=np.int32)
    np.testing.assert_array_equal(sums.numpy().sum(0, dtype=np.int32), expected)


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_sums_of_the_multiply_adds(library: Any, name: Any, num_tasks: int) -> None:
    functions, compiled, target = library
    if f"vamc_peak_{name}" not in functions:
        pytest.skip("not on this CPU")
    sums = to_device(np.ones((num_tasks, 256), np.int32))  # as a float: nothing
    count = with_threads(2, lambda: compiled[f"vamc_peak_{name}"](to_device(OPERANDS), ITERATIONS, sums))
    found = sums.numpy().view(np.int32 if name == "int8" else np.float32)
    used = sums.numpy() != 1
    assert used.any(1).all() and (used == used[0]).all(), "every task computes the same registers"
    elements = {"fp32": 1, "bf16": 2, "int8": 4 if "avx512_vnni" in target.requires else 2}[name]
    assert count == ITERATIONS * elements * used[0].sum()
    if name != "int8" or "avx512_vnni" in target.requires:
        (value,) = set(found[used].tolist())
        assert value == SUMS[name]


def test_a_cpu_with_vnni_on_256_bits_only() -> None:
    functions = roof_functions(frozenset({"avx2", "fma", "avx_vnni"}))
    target = tvm.target.Target({"kind": "llvm", "mcpu": "alderlake"})
    assembly = tvm.compile(tvm.IRModule(functions), target=target).mod.inspect_source("asm")
    assert "vpdpbusd" in assembly and "zmm" not in assembly
