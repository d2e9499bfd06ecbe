"""The check before AMX is used: compiled products on emulated tiles, on tiles that are wrong, and on none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from amx_emulator import _TileUnit, emulated_tiles
from tvm import libinfo
from tvm.target import Target

from vamc_compiler.kernels.amx_products import amx_products
from vamc_compiler.link import find_linker, link_library
from vamc_compiler.relax_stage import amx
from vamc_compiler.relax_stage.targets import host_target, resolve_targets
from vamc_runtime import amx_check
from vamc_runtime.amx_check import PRODUCTS, find_mistake, mistakes, products_of
from vamc_runtime.machine import cpu_features, request_amx

TILES = ("amx_tile", "amx_int8", "amx_bf16")
VM = Path(libinfo.find_libtvm_runtime())
NAMES = [product.name for product in PRODUCTS]
HAS_AMX = "amx_tile" in cpu_features() and request_amx()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The products for this CPU, given tiles."""
    host = host_target()
    if not {"avx512_vnni", "avx512_bf16"} <= set(host.requires):
        pytest.skip("the vector form of the products needs AVX-512 VNNI and BF16")
    features = [f"+{name.replace('_', '-')}" for name in TILES]
    target = Target({"kind": "llvm", "mcpu": host.mcpu, "mattr": features, "num-cores": 1})
    path = tmp_path_factory.mktemp("products") / "products.so"
    functions = amx_products(frozenset((*host.requires, *TILES)))
    link_library(tvm.compile(tvm.IRModule(functions), target=target), path, find_linker())
    return path


@pytest.fixture
def functions(library: Path) -> Iterator[Any]:
    """The library's functions, on emulated tiles where this machine has none."""
    with emulated_tiles([]):
        yield tvm.runtime.load_module(str(library))


def test_right_products_pass(functions: Any) -> None:
    assert mistakes(functions, NAMES) == []


@pytest.mark.parametrize("name", NAMES)
def test_each_kind_of_product_is_tried(functions: Any, name: str) -> None:
    """The last number is one bit off."""

    class Mixed:
        def __getitem__(self, key: str) -> Any:
            function = functions[key]
            if key != amx_check.ON_TILES + name:
                return function

            def wrong(*arguments: Any) -> None:
                function(*arguments)
                changed = arguments[-1].numpy()
                changed[-1, -1] = np.nextafter(changed[-1, -1], np.float32(np.inf))
                arguments[-1].copyfrom(changed)

            return wrong

    (mistake,) = mistakes(Mixed(), NAMES)
    assert mistake == f"1 of {35 * 144} results of {name} products are wrong"


@pytest.mark.skipif(HAS_AMX, reason="this machine's own tiles compute")
@pytest.mark.parametrize("fault", ["sums are replaced", "the last row is lost", "a word is left out"])
def test_tile_units_that_are_wrong(functions: Any, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """As a hypervisor or an emulator might get it."""
    break_tiles(monkeypatch, fault)
    assert mistakes(functions, NAMES)


def break_tiles(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Give the emulated tile unit a fault of its own."""
    right = _TileUnit._multiply

    def wrong(self: _TileUnit, name: str, sums: int, left: int, right_tile: int) -> None:
        if fault == "sums are replaced":
            self.data[sums] = 0
        if fault == "a word is left out":
            self.data[left, :, :4] = 0
        right(self, name, sums, left, right_tile)
        if fault == "the last row is lost":
            self.data[sums, self.rows[sums] - 1] = 0

    monkeypatch.setattr(_TileUnit, "_multiply", wrong)


@pytest.mark.skipif(HAS_AMX, reason="this machine has AMX")
def test_a_machine_that_lists_amx_and_has_none(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that tried it died, this one did not."""
    refused = find_mistake(VM, library, TILES)
    assert refused == "Linux does not grant the tile registers"
    granted = "from vamc_runtime import amx_check; amx_check.request_amx = lambda: True; "
    monkeypatch.setattr(amx_check, "_CODE", granted + amx_check._CODE)
    assert find_mistake(VM, library, TILES) == "a process that used it was ended by SIGILL"


def test_a_library_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "none.so").write_bytes(b"no library")
    assert find_mistake(tmp_path / "none.so", tmp_path / "none.so", TILES)
    assert find_mistake(VM, tmp_path / "none.so", ("amx_tile",)) == "the library has nothing to try it with"


def test_libraries_carry_the_products_that_their_kernels_use() -> None:
    for mcpu in ("x86-64-v3", "znver4"):
        (target,) = resolve_targets((mcpu,))
        assert not amx_products(frozenset(target.requires)) and not products_of(target.requires)
    for mcpu in ("sapphirerapids", "graniterapids", "diamondrapids"):
        (target,) = resolve_targets((mcpu,))
        assert set(amx_products(frozenset(target.requires))) == {
            kind + name for kind in ("vamc_amx_", "vamc_vectors_") for name in NAMES
        }
        assert [product.name for product in products_of(target.requires)] == NAMES


def test_of_this_machine() -> None:
    if not HAS_AMX:
        assert not amx.amx_works()
    else:
        assert amx.amx_works()
