"""Packing puts every weight where the kernels read it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_compiler.packing import PAIRS, PANEL_OUTPUTS, PANELS, QUADS, Packing

# Layout, type of its weights, inputs that lie together, and rows of a panel that hold no weights.
LAYOUTS: list[tuple[Packing, type, int, int]] = [
    (PANELS, np.uint16, 1, 2),
    (PAIRS, np.uint16, 2, 1),
    (QUADS, np.int8, 4, 1),
]

each_layout = pytest.mark.parametrize(
    ("packing", "dtype", "together", "added"), LAYOUTS, ids=["panels", "pairs", "quads"]
)


def random_weight(outputs: int, inputs: int, dtype: type) -> npt.NDArray[Any]:
    """Whole numbers of either sign, zero left out so that it means padding."""
    rng = np.random.default_rng(outputs * 100 + inputs)
    weight = rng.integers(1, 127, (outputs, inputs)) * rng.choice([-1, 1], (outputs, inputs))
    return cast("npt.NDArray[Any]", weight.astype(dtype))


@each_layout
@given(outputs=st.integers(1, 40), inputs=st.integers(1, 11))
def test_packing_equals_the_loop(
    packing: Packing, dtype: type, together: int, added: int, outputs: int, inputs: int
) -> None:
    weight = random_weight(outputs, inputs, dtype)
    panels, groups = -(-outputs // PANEL_OUTPUTS), -(-inputs // together)
    expected: npt.NDArray[Any] = np.zeros((panels, groups + added, PANEL_OUTPUTS * together), dtype)
    for o in range(outputs):
        for i in range(inputs):
            expected[o // 16, i // together, o % 16 * together + i % together] = weight[o, i]
    if packing is QUADS:
        sums = np.zeros(panels * PANEL_OUTPUTS, np.int32)
        sums[:outputs] = [128 * sum(map(int, row)) for row in weight]
        expected[:, -1] = np.frombuffer(sums.tobytes(), np.int8).reshape(panels, 64)
    packed = packing.pack(weight)
    np.testing.assert_array_equal(packed, expected)
    assert packed.flags.c_contiguous and packed.dtype == dtype
    assert packed.shape == packing.packed_shape(weight.shape)
    assert packed[0, 0].nbytes in (32, 64), "a row is a cache line or half of one"


@each_layout
@given(outputs=st.integers(1, 60), inputs=st.integers(1, 5), panels=st.integers(1, 4))
def test_packing_block_by_block_equals_packing_the_whole(
    packing: Packing, dtype: type, together: int, added: int, outputs: int, inputs: int, panels: int
) -> None:
    weight = random_weight(outputs, inputs, dtype)
    block = panels * PANEL_OUTPUTS
    parts = [packing.pack(weight[begin : begin + block]) for begin in range(0, outputs, block)]
    np.testing.assert_array_equal(np.concatenate(parts), packing.pack(weight))


def test_the_largest_sums_fit() -> None:
    """128 * 127 * the most inputs of a layer, as int32."""
    inputs = 2**31 // (255 * 127)
    packed = QUADS.pack(np.full((16, inputs), -127, np.int8))
    assert packed[0, -1].view(np.int32).tolist() == [-128 * 127 * inputs] * 16


def test_the_given_weight_stays() -> None:
    for packing, dtype, _, _ in LAYOUTS:
        weight = random_weight(32, 8, dtype)
        before = weight.copy()
        packing.pack(weight)[...] = 0
        np.testing.assert_array_equal(weight, before)


def test_names_differ() -> None:
    assert [packing.name for packing, *_ in LAYOUTS] == ["panels", "pairs", "quads"]
