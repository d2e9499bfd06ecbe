"""Small products on tiles and with vector instructions, which libraries that use AMX carry: see `amx_check`."""

from __future__ import annotations

from typing import Any

from vamc_compiler.kernels.dot_amx import TILE_ROWS, AmxBFloat16, AmxInt8
from vamc_compiler.kernels.dot_bf16 import BFloat16Dot
from vamc_compiler.kernels.dot_int8 import DIGITS_8, DIGITS_16, Vnni
from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.linear import Arithmetic, linear_kernel
from vamc_compiler.kernels.table import ANY_TOKENS
from vamc_runtime.amx_check import NUM_INPUTS, NUM_OUTPUTS, NUM_TOKENS, ON_TILES, ON_VECTORS, PRODUCTS, Product

# By the product's name: the arithmetic on tiles, and what has to compute the same.
_ARITHMETICS: dict[str, tuple[Arithmetic, Arithmetic]] = {
    "int8_1": (AmxInt8(DIGITS_8, rows=2 * TILE_ROWS), Vnni(DIGITS_8, rows=6)),
    "int8_2": (AmxInt8(DIGITS_16, rows=TILE_ROWS), Vnni(DIGITS_16, rows=3)),
    "bf16": (AmxBFloat16(), BFloat16Dot()),
}


def amx_products(requires: frozenset[str]) -> dict[str, Any]:
    """The functions for a CPU, name to PrimFunc; none where its kernels use no tiles.

    Args:
        requires: features in the words of /proc/cpuinfo that the code may use.
    """
    instructions = InstructionSet.of(requires)
    used = {"amx_int8": instructions.amx, "amx_bf16": instructions.amx_bf16}
    return {
        name: function
        for product in PRODUCTS
        if used[product.requires]
        for name, function in _functions(product).items()
    }


def _functions(product: Product) -> dict[str, Any]:
    found = {}
    for kind, arithmetic in zip((ON_TILES, ON_VECTORS), _ARITHMETICS[product.name], strict=True):
        _check_shapes(product, arithmetic)
        name = kind + product.name
        scaled = arithmetic.weight_dtype == "int8"
        function = linear_kernel(((ANY_TOKENS, arithmetic),), NUM_INPUTS, NUM_OUTPUTS, scaled).function
        found[name] = function.with_attr("global_symbol", name)
    return found


def _check_shapes(product: Product, arithmetic: Arithmetic) -> None:
    """The runtime writes these shapes down, as it knows no kernels."""
    x = arithmetic.form.tensors(NUM_TOKENS, NUM_INPUTS)
    weight = arithmetic.packing.packed_shape((NUM_OUTPUTS, NUM_INPUTS)), arithmetic.weight_dtype
    scale = [((NUM_OUTPUTS,), "float32")] if arithmetic.weight_dtype == "int8" else []
    expected = [*x, weight, *scale]
    given = [(shape, dtype) for shape, dtype, _ in product.arguments]
    assert given == expected, f"vamc_runtime.amx_check describes {product.name} as {given}, and it takes {expected}"
