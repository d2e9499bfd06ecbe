"""Linear layers on AMX: the code for Sapphire Rapids is read, and run on emulated tiles where there are none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import tvm
from amx_emulator import Array, Emulation, Memory, bfloat16_values, emulated_tiles
from compiled_kernels import with_threads
from tvm.target import Target

from vamc_compiler.kernels.dot_amx import AmxBFloat16, AmxHalfToBFloat16, AmxInt8
from vamc_compiler.kernels.dot_int8 import DIGITS_8, DIGITS_16, Vnni
from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.linear import Arithmetic, linear_kernel
from vamc_compiler.kernels.table import ANY_TOKENS, SMALL_BATCH, KernelTable
from vamc_compiler.relax_stage.targets import host_target, resolve_targets
from vamc_runtime.machine import cpu_features, request_amx

FEATURES = ("amx-tile", "amx-int8", "amx-bf16")
SIZES = [(16, 64), (17, 77), (16, 20), (250, 130), (48, 1030), (144, 128)]
"""Outputs and inputs of the layers: K below, at and beyond a tile, N with an odd panel, a second group and a rest."""
TOKENS = [1, 2, 16, 17, 33, 48, 100, 300]
HAS_AMX = "amx_tile" in cpu_features() and request_amx()
DIGITS16, DIGITS8 = AmxInt8(DIGITS_16, rows=16), AmxInt8(DIGITS_8, rows=32)
INT8 = [pytest.param(DIGITS16, id="digits16"), pytest.param(DIGITS8, id="digits8")]
BFLOAT16, HALF = AmxBFloat16(), AmxHalfToBFloat16()
EVERY = [*INT8, pytest.param(BFLOAT16, id="bfloat16"), pytest.param(HALF, id="float16")]
EPSILON = 2.0**-24


def compiled(arithmetic: Arithmetic, outputs: int, inputs: int, target: Target) -> Any:
    scaled = arithmetic.weight_dtype == "int8"
    kernel = linear_kernel(((ANY_TOKENS, arithmetic),), inputs, outputs, scaled)
    return tvm.compile(tvm.IRModule({"f": kernel.function.with_attr("global_symbol", "f")}), target=target)


def with_tiles(mcpu: str) -> Target:
    return Target({"kind": "llvm", "mcpu": mcpu, "mattr": [f"+{name}" for name in FEATURES], "num-cores": 1})


@cache
def runnable(arithmetic: Arithmetic, outputs: int, inputs: int) -> Any:
    """For this CPU, given tiles."""
    return compiled(arithmetic, outputs, inputs, with_tiles(host_target().mcpu))


@cache
def assembly(arithmetic: Arithmetic, outputs: int, inputs: int, mcpu: str = "sapphirerapids") -> str:
    """The code for a CPU, given tiles."""
    text: str = compiled(arithmetic, outputs, inputs, with_tiles(mcpu)).mod.inspect_source("asm")
    return text


def run(library: Any, outputs: int, arguments: Sequence[Array], threads: int = 1) -> tuple[Array, Emulation]:
    """Call a kernel with arrays that end where they end."""
    y = np.zeros((len(arguments[0]), outputs), np.float32)
    memories = [Memory(array) for array in (*arguments, y)]
    tensors = [tvm.runtime.from_dlpack(memory.array) for memory in memories]
    with emulated_tiles(memories) as emulation:
        with_threads(threads, lambda: library["f"](*tensors))
    assert all(memory.is_intact for memory in memories)
    return memories[-1].array, emulation


def garbage(arithmetic: Arithmetic, tokens: int, inputs: int) -> list[Array]:
    """The tensors of x, filled with what may be behind the end of a row."""
    tensors = arithmetic.form.tensors(tokens, inputs)
    return [
        np.full(np.prod(shape) * np.dtype(d).itemsize, 255, np.uint8).view(d).reshape(shape) for shape, d in tensors
    ]


def random_int8(arithmetic: Arithmetic, tokens: int, outputs: int, inputs: int) -> tuple[list[Array], Array, Array]:
    """Arguments, the exact result, and the rounding that its float32 operations may add up to."""
    rng = np.random.default_rng(tokens + inputs)
    form = arithmetic.form
    numbers = rng.integers(-form.levels, form.levels + 1, (tokens, inputs))
    weight = rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    scale = np.exp(rng.uniform(-9, 0, outputs)).astype(np.float32)
    digits, row_scale = garbage(arithmetic, tokens, inputs)
    row_scale[:] = np.exp(rng.uniform(-9, 0, tokens))
    for plane in range(form.planes):
        digits[:, plane, :inputs] = numbers + form.offset >> 8 * (form.planes - 1 - plane) & 255
    factor = row_scale[:, None].astype(np.float64) * scale
    exact = (numbers @ weight.T.astype(np.int64)) * factor
    largest = (np.abs(numbers) + 512) @ np.abs(weight.T.astype(np.int64)) * factor
    return [digits, row_scale, arithmetic.packing.pack(weight), scale], exact, 6 * EPSILON * largest


def random_floats(arithmetic: Arithmetic, tokens: int, outputs: int, inputs: int) -> tuple[list[Array], Array, Array]:
    """See `random_int8`."""
    rng = np.random.default_rng(tokens + inputs)
    x, weight = rng.standard_normal((tokens, inputs)), rng.standard_normal((outputs, inputs))
    *exact_rows, rows = garbage(arithmetic, tokens, inputs)
    rows[:, 0, :inputs] = x.astype(np.float32).view(np.uint32) >> 16
    rows[:, 0, inputs : inputs + inputs % 2] = 0
    if arithmetic is HALF:
        weight = weight.astype(np.float16)
        bits = weight.astype(np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
        arguments = [*exact_rows, rows, arithmetic.packing.pack(weight)]
    else:
        rounded = (weight.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        arguments = [rows, arithmetic.packing.pack(rounded)]
    left, right = bfloat16_values(rows[:, 0, :inputs]), bfloat16_values(rounded).T
    exact = left.astype(np.float64) @ right.astype(np.float64)
    return arguments, exact, (inputs + 3) * EPSILON * (np.abs(left) @ np.abs(right)).astype(np.float64)


def random_call(arithmetic: Arithmetic, tokens: int, outputs: int, inputs: int) -> tuple[list[Array], Array, Array]:
    kind = random_int8 if isinstance(arithmetic, AmxInt8) else random_floats
    return kind(arithmetic, tokens, outputs, inputs)


@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
@pytest.mark.parametrize("arithmetic", EVERY)
def test_against_float64(arithmetic: Arithmetic, outputs: int, inputs: int) -> None:
    for tokens in TOKENS:
        arguments, exact, bound = random_call(arithmetic, tokens, outputs, inputs)
        found, emulation = run(runnable(arithmetic, outputs, inputs), outputs, arguments)
        wrong = np.argwhere(~(np.abs(found - exact) <= bound))
        assert not len(wrong), f"{tokens} tokens: {len(wrong)} values differ, the first at {wrong[0]}"
        assert HAS_AMX or emulation.executed["ldtilecfg"]


def test_extremes_do_not_overflow() -> None:
    """The largest digits times the largest weights, as many as the kernel accepts."""
    inputs, outputs = 66304, 16
    arithmetic = AmxInt8(DIGITS_16, rows=16)
    digits, row_scale = garbage(arithmetic, 1, inputs)
    row_scale[:] = 1
    weight = np.full((outputs, inputs), 127, np.int8)
    arguments = [digits, row_scale, arithmetic.packing.pack(weight), np.ones(outputs, np.float32)]
    found, _ = run(runnable(arithmetic, outputs, inputs), outputs, arguments)
    np.testing.assert_allclose(found, 32767.0 * 127 * inputs, rtol=2e-7)


@pytest.mark.parametrize("arithmetic", INT8)
def test_bit_by_bit_what_vnni_computes(arithmetic: AmxInt8) -> None:
    """A token must not depend on how many others are in the batch, nor on the kernel that their number selects."""
    if "avx512_vnni" not in host_target().requires:
        pytest.skip("this CPU has no AVX-512 VNNI")
    outputs, inputs = 250, 1030
    arguments, _, _ = random_int8(arithmetic, 33, outputs, inputs)
    vnni = compiled(Vnni(arithmetic.form, rows=3), outputs, inputs, host_target().tvm_target())
    expected, none = run(vnni, outputs, arguments)
    found, _ = run(runnable(arithmetic, outputs, inputs), outputs, arguments)
    assert not none.executed
    np.testing.assert_array_equal(found, expected)


def test_every_thread_has_its_own_tiles() -> None:
    """Blocks of tokens and groups of panels on two threads; the emulator checks that both release their tiles."""
    outputs, inputs = 250, 130
    arguments, _, _ = random_int8(DIGITS16, 300, outputs, inputs)
    alone, _ = run(runnable(DIGITS16, outputs, inputs), outputs, arguments)
    for _ in range(3):
        together, emulation = run(runnable(DIGITS16, outputs, inputs), outputs, arguments, threads=2)
        np.testing.assert_array_equal(together, alone)
        assert HAS_AMX or emulation.num_threads == 2


def test_instructions_per_tile() -> None:
    """4 products for 4 loads, and no sum leaves its register between them."""
    if HAS_AMX:
        pytest.skip("nothing to count: the hardware computes")
    arguments, _, _ = random_int8(DIGITS16, 16, 64, 256)
    _, emulation = run(runnable(DIGITS16, 64, 256), 64, arguments)
    pairs, steps = 2, 4
    assert emulation.executed == {
        "ldtilecfg": 1,
        "tilezero": 4 * pairs,
        "tileloadd": 4 * pairs * steps,
        "tdpbusd": 4 * pairs * steps,
        "tilestored": 4 * pairs,
        "tilerelease": 1,
    }


@pytest.mark.parametrize("arithmetic", EVERY)
class TestCodeForSapphireRapids:
    """What LLVM makes of the kernels."""

    def test_instructions(self, arithmetic: Arithmetic) -> None:
        product = "tdpbusd" if isinstance(arithmetic, AmxInt8) else "tdpbf16ps"
        for outputs, inputs in ((128, 4096), (250, 1030)):
            found = set(re.findall(r"^\s+(\w*(?:tile|tdp)\w*)", assembly(arithmetic, outputs, inputs), re.MULTILINE))
            assert found == {"ldtilecfg", "tilezero", "tileloadd", product, "tilestored", "tilerelease"}

    def test_inner_loop(self, arithmetic: Arithmetic) -> None:
        """Four loads, four products, and addresses: no spill, no vector instruction, no call."""
        blocks = re.split(r"^\.L\w+:", assembly(arithmetic, 128, 4096), flags=re.MULTILINE)
        loops = [block.split("\tjne", 1)[0] for block in blocks if "tdp" in block]
        assert len(loops) == 4, "8 panels are 4 pairs"
        for loop in loops:
            names = re.findall(r"^\s+(\w+)", loop, re.MULTILINE)
            assert names.count("tileloadd") == sum(name.startswith("tdp") for name in names) == 4
            others = {name for name in names if name != "tileloadd" and not name.startswith("tdp")}
            assert all(re.fullmatch("(add|cmp|dec|inc|lea|mov|sub|xor)[lq]", name) for name in others), others
            assert "rsp" not in loop, "every address has a register"

    @pytest.mark.parametrize("mcpu", ["sapphirerapids", "graniterapids", "znver4"])
    def test_registers_are_those_that_were_configured(self, arithmetic: Arithmetic, mcpu: str) -> None:
        """Sums 0 to 3, x 4 and 5, weights 6 and 7, where a panel without a partner leaves some of them free, too."""
        products = re.findall(r"tdp\w+\s+%tmm(\d), %tmm(\d), %tmm(\d)", assembly(arithmetic, 144, 128, mcpu))
        assert set(products) == {("6", "4", "0"), ("7", "4", "1"), ("6", "5", "2"), ("7", "5", "3")}


class TestTable:
    """Which CPU gets these kernels."""

    @staticmethod
    def _arithmetic(mcpu: str, choose: Callable[[KernelTable], Any], **options: bool) -> list[tuple[int, str]]:
        (target,) = resolve_targets((mcpu,))
        table = KernelTable(InstructionSet.of(target.requires), **options)
        return [(limit, arithmetic.name) for limit, arithmetic in choose(table)]

    def test_many_tokens(self) -> None:
        def int8(table: KernelTable) -> Any:
            return table.linear("QuantizedLinearPerChannel", "int8")

        assert self._arithmetic("sapphirerapids", int8) == [
            (SMALL_BATCH, "vnni_digits16"),
            (ANY_TOKENS, "amx_digits16"),
        ]
        assert self._arithmetic("znver4", int8) == [(ANY_TOKENS, "vnni_digits16")]

    def test_eight_bit_activations(self) -> None:
        found = self._arithmetic("sapphirerapids", lambda table: table.linear("QuantizedLinearDynamic", "int8"))
        assert found == [(SMALL_BATCH, "vnni_digits8"), (ANY_TOKENS, "amx_digits8")]

    def test_bfloat16(self) -> None:
        found = self._arithmetic("sapphirerapids", lambda table: table.linear("Linear", "bfloat16"))
        assert found == [(SMALL_BATCH, "bfloat16"), (ANY_TOKENS, "amx_bfloat16")]

    def test_prefill_in_bfloat16(self) -> None:
        found = self._arithmetic(
            "sapphirerapids", lambda table: table.linear("Linear", "float16"), bfloat16_prefill=True
        )
        assert found[-1] == (ANY_TOKENS, "amx_float16_as_bfloat16")

    def test_tiles_with_bytes_only(self) -> None:
        """Each product has a feature of its own."""
        features = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_tile"}
        assert not InstructionSet.of(features).amx
        only_bytes = InstructionSet.of(features | {"amx_int8"})
        assert only_bytes.amx and not only_bytes.amx_bf16
        assert InstructionSet.of(features | {"amx_bf16"}).amx_bf16

    def test_one_set_of_weights(self) -> None:
        for op, dtype in (("QuantizedLinearPerChannel", "int8"), ("Linear", "bfloat16"), ("Linear", "float16")):
            tables = [
                KernelTable(InstructionSet.of(target.requires), bfloat16_prefill=True)
                for target in resolve_targets(("sapphirerapids", "x86-64-v3"))
            ]
            assert tables[0].packing(op, dtype) == tables[1].packing(op, dtype)
