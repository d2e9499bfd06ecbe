"""CPU names: what is compiled for, what a machine then needs, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from vamc_compiler.relax_stage import targets as targets_module
from vamc_compiler.relax_stage.targets import host_target, resolve_targets, runtime_library
from vamc_runtime.errors import UserError
from vamc_runtime.machine import cpu_features

V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "popcnt", "sse4_2"])


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
        (frozenset(["amx_tile", "amx_int8", "amx_bf16"]), "x86-64-v4"),  # a virtual machine without AMX
        (frozenset(["avx512f"]), "x86-64-v3"),
    ],
)
def test_features_that_a_virtual_machine_hides(
    monkeypatch: pytest.MonkeyPatch, hidden: frozenset[str], expected: str
) -> None:
    (everything,) = resolve_targets(("sapphirerapids",))
    monkeypatch.setattr(f"{targets_module.__name__}.codegen.llvm_get_system_cpu", lambda: "sapphirerapids")
    monkeypatch.setattr(targets_module, "cpu_features", lambda: frozenset(everything.requires) - hidden)
    assert host_target().mcpu == expected


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
