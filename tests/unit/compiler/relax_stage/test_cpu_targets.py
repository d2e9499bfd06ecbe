"""CPU names: what is compiled for, what a machine then needs, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import tvm
import tvm.script.ir_builder.tirx as ir
from tvm.script.ir_builder import IRBuilder
from tvm.target import Target, codegen

from vamc_compiler.relax_stage import targets as targets_module
from vamc_compiler.relax_stage.llvm_features import CHECKED, IGNORED, SWITCHED_OFF
from vamc_compiler.relax_stage.targets import describe_target, host_target, resolve_targets, runtime_library
from vamc_runtime.errors import UserError
from vamc_runtime.machine import cpu_features

# What x86-64-v3 adds to x86-64 (System V ABI, x86-64 psABI 1.0, table 3.1), in the words of /proc/cpuinfo.
V3 = frozenset(
    (
        *("abm", "avx", "avx2", "bmi1", "bmi2", "cx16", "f16c", "fma", "lahf_lm", "movbe", "pni", "popcnt", "sse4_1"),
        *("sse4_2", "ssse3"),
    )
)
ALL_CPUS = sorted(map(str, codegen.llvm_get_cpu_archlist(Target({"kind": "llvm"}))))
AMX = frozenset(["amx_tile", "amx_int8", "amx_bf16"])


def test_the_host_runs_what_is_compiled_for_it() -> None:
    target = host_target()
    assert set(target.requires) <= cpu_features()
    assert {"avx2", "fma", "f16c"} <= set(target.requires)
    assert resolve_targets(()) == [target]
    assert str(target.tvm_target().attrs["mcpu"]) == target.mcpu


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        (frozenset(), "sapphirerapids"),
        (AMX, "sapphirerapids"),  # a virtual machine without AMX: the rest of the CPU is used
        (frozenset(["avx512_fp16"]), "x86-64-v4"),
        (frozenset(["avx512f"]), "x86-64-v3"),
    ],
)
def test_features_that_a_virtual_machine_hides(
    monkeypatch: pytest.MonkeyPatch, hidden: frozenset[str], expected: str
) -> None:
    (everything,) = resolve_targets(("sapphirerapids",))
    monkeypatch.setattr(f"{targets_module.__name__}.codegen.llvm_get_system_cpu", lambda: "sapphirerapids")
    monkeypatch.setattr(targets_module, "cpu_features", lambda: frozenset(everything.requires) - hidden)
    monkeypatch.setattr(targets_module, "amx_works", lambda: True)
    target = host_target()
    assert target.mcpu == expected
    assert set(target.requires) <= set(everything.requires) - hidden


def test_a_tile_unit_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is listed and granted, and left alone all the same; nothing else of the CPU is."""
    (everything,) = resolve_targets(("sapphirerapids",))
    monkeypatch.setattr(codegen, "llvm_get_system_cpu", lambda: "sapphirerapids")
    monkeypatch.setattr(targets_module, "cpu_features", lambda: frozenset(everything.requires))
    monkeypatch.setattr(targets_module, "amx_works", lambda: False)
    target = host_target()
    assert target.mcpu == "sapphirerapids"
    assert set(target.requires) == set(everything.requires) - AMX
    names = set(map(str, codegen.llvm_get_cpu_features(target.tvm_target())))
    assert not any(name.startswith("amx") for name in names) and "avx512vnni" in names


def test_a_host_newer_than_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of it serves: a generic level."""
    real = codegen.llvm_get_cpu_features
    monkeypatch.setattr(
        codegen,
        "llvm_get_cpu_features",
        lambda target: [*real(target), *(["warp"] if str(target.attrs["mcpu"]) == "znver5" else [])],
    )
    monkeypatch.setattr(codegen, "llvm_get_system_cpu", lambda: "znver5")
    monkeypatch.setattr(targets_module, "cpu_features", lambda: V3 | {"avx512f"})
    assert host_target().mcpu == "x86-64-v3"
    with pytest.raises(UserError, match="for znver5 LLVM may use warp, which vamc does not know") as caught:
        resolve_targets(("znver5",))
    assert "older CPU" in caught.value.fix


@pytest.mark.parametrize("mcpu", ALL_CPUS)
def test_every_feature_of_every_cpu_is_checked_or_switched_off_or_harmless(mcpu: str) -> None:
    """No feature is dropped without a word: what LLVM may use is all of it."""
    target = describe_target(mcpu)
    used = set(map(str, codegen.llvm_get_cpu_features(target.tvm_target())))
    harmless = frozenset().union(*IGNORED.values())
    assert used <= CHECKED.keys() | harmless
    assert {CHECKED[name] for name in used & CHECKED.keys()} == set(target.requires)
    assert not used & SWITCHED_OFF


def test_each_feature_is_named_once() -> None:
    groups = [frozenset(CHECKED), SWITCHED_OFF, *IGNORED.values()]
    assert sum(map(len, groups)) == len(frozenset().union(*groups))
    known = {
        str(name) for mcpu in ALL_CPUS for name in codegen.llvm_get_cpu_features(Target({"kind": "llvm", "mcpu": mcpu}))
    }
    assert frozenset().union(*groups) == known, "and none that LLVM does not have"


@pytest.mark.parametrize(
    ("mcpu", "instruction"), [("sierraforest", "vcvtneps2bf16"), ("diamondrapids", "{nf}"), ("novalake", "setzu")]
)
def test_code_generation_does_without_what_no_machine_can_be_asked_for(mcpu: str, instruction: str) -> None:
    """LLVM would choose the instruction by itself."""
    assert instruction in _assembly(Target({"kind": "llvm", "mcpu": mcpu}))
    assert instruction not in _assembly(describe_target(mcpu).tvm_target())


TO_BFLOAT16 = """
define linkonce_odr void @test_to_bfloat16(ptr %x, ptr %y) noinline {
  %wide = load <8 x float>, ptr %x
  %narrow = fptrunc <8 x float> %wide to <8 x bfloat>
  store <8 x bfloat> %narrow, ptr %y
  ret void
}
"""


def _assembly(target: Target) -> str:
    """A conversion, and the code around it that checks a function's arguments."""
    with IRBuilder() as builder, ir.prim_func(is_private=False, s_tir=True):
        ir.func_name("f")
        ir.func_attr({"global_symbol": "f", "tirx.noalias": True})
        x, y = (
            ir.match_buffer(ir.arg(name, ir.handle()), (8,), dtype)
            for name, dtype in (("x", "float32"), ("y", "uint16"))
        )
        with ir.attr(ir.int32(0), "pragma_import_llvm", TO_BFLOAT16):
            ir.evaluate(ir.call_extern("void", "test_to_bfloat16", ir.address_of(x[0]), ir.address_of(y[0])))
    text: str = tvm.compile(tvm.IRModule({"f": builder.get()}), target=target).mod.inspect_source("asm")
    return text


def test_a_host_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets_module, "cpu_features", lambda: V3 - {"avx2"})
    with pytest.raises(UserError, match="is below x86-64-v3") as caught:
        host_target()
    assert "backend.target.mcpu" in caught.value.fix


def test_several_targets_in_their_order() -> None:
    found = resolve_targets(("x86-64-v4", "x86-64-v3", "znver4"))
    assert [target.mcpu for target in found] == ["x86-64-v4", "x86-64-v3", "znver4"]
    v4, v3, znver4 = (set(target.requires) for target in found)
    assert v3 == V3
    assert v3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} == v4
    assert v4 < znver4 and "avx512_vnni" in znver4
    assert all(list(target.requires) == sorted(target.requires) for target in found)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="'znver44', which LLVM does not know") as caught:
        resolve_targets(("x86-64-v3", "znver44"))
    assert "did you mean 'znver4'?" in caught.value.fix
    with pytest.raises(UserError, match="does not know") as caught:
        resolve_targets(("qqqqqqqqqqqq",))
    assert "llc -mcpu=help" in caught.value.fix


@pytest.mark.parametrize(("mcpu", "missing"), [("x86-64", "avx2"), ("x86-64-v2", "fma"), ("sandybridge", "f16c")])
def test_a_cpu_below_the_lowest_level_is_refused(mcpu: str, missing: str) -> None:
    with pytest.raises(UserError, match=f"{mcpu}', which lacks .*{missing}") as caught:
        resolve_targets((mcpu,))
    assert caught.value.fix == "use x86-64-v3"


def test_the_virtual_machine_is_there() -> None:
    path = runtime_library()
    assert isinstance(path, Path) and path.is_file()
    assert path.name == "libtvm_runtime.so"
