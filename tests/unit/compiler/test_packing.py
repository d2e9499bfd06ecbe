"""Panel packing puts every weight where the kernel reads it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_compiler.packing import PanelPacking


@given(outputs=st.integers(1, 40), inputs=st.integers(1, 9), width=st.integers(1, 17))
def test_packing_equals_the_loop(outputs: int, inputs: int, width: int) -> None:
    packing = PanelPacking(width)
    weight = np.arange(1, outputs * inputs + 1, dtype=np.int32).reshape(outputs, inputs)
    expected = np.zeros(packing.packed_shape((outputs, inputs)), np.int32)
    for o in range(outputs):
        for i in range(inputs):
            expected[o // width, i, o % width] = weight[o, i]
    packed = packing.pack(weight)
    np.testing.assert_array_equal(packed, expected)
    assert packed.flags.c_contiguous
    assert packed.shape == (-(-outputs // width), inputs, width)


@given(outputs=st.integers(1, 60), inputs=st.integers(1, 5), width=st.integers(1, 16), panels=st.integers(1, 4))
def test_packing_block_by_block_equals_packing_the_whole(outputs: int, inputs: int, width: int, panels: int) -> None:
    packing = PanelPacking(width)
    weight = np.arange(outputs * inputs, dtype=np.int16).reshape(outputs, inputs)
    block = panels * width
    parts = [packing.pack(weight[begin : begin + block]) for begin in range(0, outputs, block)]
    np.testing.assert_array_equal(np.concatenate(parts), packing.pack(weight))


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_the_type_stays(dtype: type) -> None:
    packed = PanelPacking(16).pack(np.ones((3, 2), dtype))
    assert packed.dtype == dtype
    assert packed.sum() == 6  # the other rows of the panel are zeros


def test_name() -> None:
    assert PanelPacking(16).name == "panel16"
