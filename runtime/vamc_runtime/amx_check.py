"""Whether the tile unit (AMX) of this machine computes what it should: tried before a library that uses it is chosen.

A CPU may list AMX while Linux refuses it to a process, or while a hypervisor or an emulator gets it wrong. Every
library that uses tiles therefore carries some small products twice: `vamc_amx_<name>` on tiles, and
`vamc_vectors_<name>` with vector instructions. They run in a process of their own, which may die of it, and have to
agree bit by bit. That a library passed is remembered until this machine starts anew.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vamc_runtime import passed_checks
from vamc_runtime.arrays import as_tensor, zero_pages
from vamc_runtime.child_python import python_command, python_environment
from vamc_runtime.ffi import tvm_ffi
from vamc_runtime.machine import boot_id, cpu_model, request_amx

ON_TILES, ON_VECTORS = "vamc_amx_", "vamc_vectors_"
NUM_TOKENS, NUM_OUTPUTS, NUM_INPUTS = 35, 144, 130
"""More tokens than a tile has rows, a panel without a partner, and a rest of inputs."""
TIMEOUT_SECONDS = 60
_CODE = "from vamc_runtime.amx_check import main; main(*sys.argv[1:])"

Array = npt.NDArray[Any]
Fill = Literal["bytes", "bfloat16", "factors"]


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product that libraries carry twice."""

    name: str
    requires: str
    """The feature that it needs beside `amx_tile`."""
    arguments: tuple[tuple[tuple[int, ...], str, Fill], ...]
    """Shape, dtype and content of every argument but the last, which is y float32 [tokens, outputs]."""


def _int8(planes: int) -> Product:
    # Rows of activations are padded to an odd number of cache lines; a panel has a last line of sums (docs/kernels.md).
    return Product(
        name=f"int8_{planes}",
        requires="amx_int8",
        arguments=(
            ((NUM_TOKENS, planes, 192), "uint8", "bytes"),
            ((NUM_TOKENS,), "float32", "factors"),
            ((NUM_OUTPUTS // 16, -(-NUM_INPUTS // 4) + 1, 64), "int8", "bytes"),
            ((NUM_OUTPUTS,), "float32", "factors"),
        ),
    )


_BFLOAT16 = Product(
    name="bf16",
    requires="amx_bf16",
    arguments=(
        ((NUM_TOKENS, 1, 160), "uint16", "bfloat16"),
        ((NUM_OUTPUTS // 16, -(-NUM_INPUTS // 2) + 1, 32), "uint16", "bfloat16"),
    ),
)
PRODUCTS = (_int8(1), _int8(2), _BFLOAT16)


def products_of(requires: Sequence[str]) -> list[Product]:
    """Those that a library with these requirements carries."""
    return [product for product in PRODUCTS if {"amx_tile", product.requires} <= set(requires)]


def random_arguments(product: Product, random: np.random.Generator) -> list[Array]:
    """Arguments whose products are exact, in whatever order they are added."""

    def filled(shape: tuple[int, ...], dtype: str, fill: Fill) -> Array:
        if fill == "bytes":
            return random.integers(0, 256, shape, np.uint8).view(dtype)
        if fill == "bfloat16":  # whole numbers: the upper half of the float32
            whole = random.integers(-64, 65, shape).astype(np.float32)
            return np.asarray(whole.view(np.uint32) >> 16, np.uint16)
        return np.asarray(2.0 ** random.integers(-8, 1, shape), dtype)

    return [filled(*argument) for argument in product.arguments]


def _aligned(array: Array) -> Array:
    """The same in memory as compiled code takes it."""
    copy = zero_pages(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def mistakes(library: Mapping[str, Callable[..., object]] | Any, names: Sequence[str]) -> list[str]:
    """Run the products of a library in this process.

    Args:
        library: functions by name: a tvm_ffi module.
        names: of `PRODUCTS`.

    Returns:
        What differed, in words; empty where all is right.
    """
    random = np.random.default_rng(0)
    found = []
    for product in (product for product in PRODUCTS if product.name in names):
        arguments = list(map(_aligned, random_arguments(product, random)))
        results = [_aligned(np.full((NUM_TOKENS, NUM_OUTPUTS), np.nan, np.float32)) for _ in range(2)]
        for kind, y in zip((ON_TILES, ON_VECTORS), results, strict=True):
            library[kind + product.name](*map(as_tensor, (*arguments, y)))
        on_tiles, on_vectors = results
        wrong = int((on_tiles != on_vectors).sum())  # a NaN, too, is unlike any number
        if wrong:
            found.append(f"{wrong} of {on_tiles.size} results of {product.name} products are wrong")
    return found


def main(vm: str, library: str, names: str) -> None:
    """What the child process does: prints what is wrong as JSON."""
    if not request_amx():
        print(json.dumps(["Linux does not grant the tile registers"]))
        return
    ffi = tvm_ffi()
    ctypes.CDLL(vm, ctypes.RTLD_GLOBAL)  # libraries look for its symbols
    print(json.dumps(mistakes(ffi.load_module(library), names.split(","))))


def find_mistake(vm: Path, library: Path, requires: Sequence[str]) -> str:
    """Run a library's products in a process of their own.

    Args:
        vm: libtvm_runtime.so.
        library: compiled code that uses tiles.
        requires: the library's, which tell the products that it carries.

    Returns:
        Why the tile unit is not to be used; empty where it is right.
    """
    products = products_of(requires)
    if not products:
        return "the library has nothing to try it with"
    command = [*python_command(_CODE), str(vm), str(library), ",".join(product.name for product in products)]
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=python_environment(),
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it could not be tried: {error}"
    if child.returncode < 0:
        return f"a process that used it was ended by {signal.Signals(-child.returncode).name}"
    if child.returncode:
        return f"it could not be tried: {(child.stderr.strip().splitlines() or ['no reason given'])[-1]}"
    return "; ".join(json.loads(child.stdout))


@functools.cache
def find_mistake_once(vm: Path, library: Path, requires: tuple[str, ...], code: str) -> str:
    """As `find_mistake`, but once for a process, and not again where the library passed since this machine started.

    Args:
        vm: libtvm_runtime.so.
        library: compiled code that uses tiles.
        requires: the library's.
        code: its sha256.
    """
    key = hashlib.sha256(json.dumps(["amx", boot_id(), cpu_model(), code]).encode()).hexdigest()
    if passed_checks.has_passed("self_tests", key):
        return ""
    mistake = find_mistake(vm, library, requires)
    if not mistake:
        passed_checks.remember("self_tests", key, f"AMX on {cpu_model()}")
    return mistake
