"""Unpacking undoes packing, and shows what lies beside the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_compiler.packing import PAIRS, PANELS, QUADS, Packing
from vamc_compiler.verify.unpacking import LAYOUTS

PACKINGS: dict[str, tuple[Packing, type]] = {
    "float16": (PANELS, np.uint16),
    "bfloat16": (PAIRS, np.uint16),
    "int8": (QUADS, np.int8),
}


def random_weight(outputs: int, inputs: int, dtype: type) -> npt.NDArray[Any]:
    """All bit patterns, zero too."""
    rng = np.random.default_rng(outputs * 100 + inputs)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (outputs, inputs), dtype, endpoint=True)


@pytest.mark.parametrize("dtype", LAYOUTS)
@given(outputs=st.integers(1, 50), inputs=st.integers(1, 19))
def test_unpacking_undoes_packing(dtype: str, outputs: int, inputs: int) -> None:
    layout, (packing, bits) = LAYOUTS[dtype], PACKINGS[dtype]
    weight = random_weight(outputs, inputs, bits)
    packed = packing.pack(weight)
    unpacked = layout.unpack(packed)
    np.testing.assert_array_equal(unpacked.rows[:outputs, :inputs], weight)
    assert not unpacked.rows[outputs:].any() and not unpacked.rows[:, inputs:].any()
    assert layout.packed_shape(outputs, inputs) == packed.shape == packing.packed_shape(weight.shape)
    assert layout.name == packing.name
    if dtype == "int8":
        sums = [128 * sum(map(int, row)) for row in weight]
        assert unpacked.sums is not None
        assert unpacked.sums.tolist() == sums + [0] * (-outputs % 16)


@pytest.mark.parametrize("dtype", LAYOUTS)
def test_every_number_of_a_panel_shows(dtype: str) -> None:
    """Nothing in the file can be wrong unseen: each packed number is one unpacked number or part of a sum."""
    layout, (_, bits) = LAYOUTS[dtype], PACKINGS[dtype]
    shape = layout.packed_shape(20, 7)
    for index in np.ndindex(shape):
        panels: npt.NDArray[Any] = np.zeros(shape, bits)
        panels[index] = 1
        unpacked = layout.unpack(panels)
        shown = np.count_nonzero(unpacked.rows) + (0 if unpacked.sums is None else np.count_nonzero(unpacked.sums))
        assert shown == 1, index
