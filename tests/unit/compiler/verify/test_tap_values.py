"""Values in parts: put together, cut apart, padding left out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tiny_builds import steps_of

from vamc_compiler.sharding import Piece, shard_evenly, shard_units
from vamc_compiler.verify.run import Array, TapCollector, TapValue, step_rows, taken_columns, true_columns
from vamc_compiler.verify.taps import Columns

WHOLE = np.arange(12, dtype=np.float32).reshape(2, 6)
# Rank 0 has columns 4, 5, padding, and 0; rank 1 has 1 to 3 and padding.
COLUMNS: Columns = ((Piece(4, 2), Piece(None, 1), Piece(0, 1)), (Piece(1, 3), Piece(None, 2)))
PARTS = (
    np.array([[4, 5, -1, 0], [10, 11, -1, 6]], np.float32),
    np.array([[1, 2, 3, -1, -1], [7, 8, 9, -1, -1]], np.float32),
)


def test_parts_make_the_whole() -> None:
    assert np.array_equal(TapValue(PARTS, COLUMNS).whole(), WHOLE)


def test_a_value_that_every_rank_has() -> None:
    assert TapValue((WHOLE,)).whole() is WHOLE


def test_columns_that_no_rank_has_are_no_numbers() -> None:
    found = TapValue((WHOLE[:, 4:],), ((Piece(4, 2),),)).whole()
    assert np.isnan(found[:, :4]).all()
    assert np.array_equal(found[:, 4:], WHOLE[:, 4:])


def test_padding_is_left_out_on_either_side() -> None:
    for part, pieces in zip(PARTS, COLUMNS, strict=True):
        assert np.array_equal(true_columns(part, pieces), taken_columns(WHOLE, pieces))
    assert true_columns(PARTS[0], COLUMNS[0])[0].tolist() == [4, 5, 0]


def test_a_rank_with_nothing_but_padding() -> None:
    padding = (Piece(None, 3),)
    assert true_columns(np.ones((2, 3), np.float32), padding).shape == (2, 0)
    assert taken_columns(WHOLE, padding).shape == (2, 0)
    both = TapValue((WHOLE, np.ones((2, 3), np.float32)), ((Piece(0, 6),), padding))
    assert np.array_equal(both.whole(), WHOLE)


def split(whole: Array, columns: Columns) -> tuple[Array, ...]:
    """What every rank holds, padding filled with what must not be looked at."""
    return tuple(
        np.concatenate(
            [
                np.full((len(whole), piece.length), np.nan, np.float32)
                if piece.start is None
                else whole[:, piece.start : piece.start + piece.length]
                for piece in pieces
            ],
            axis=1,
        )
        for pieces in columns
    )


@given(st.integers(1, 20), st.integers(1, 6))
def test_any_even_split_comes_back(width: int, num_ranks: int) -> None:
    whole = np.random.default_rng(0).standard_normal((3, width)).astype(np.float32)
    columns = tuple(shard_evenly(0, width, rank, num_ranks).pieces for rank in range(num_ranks))
    assert np.array_equal(TapValue(split(whole, columns), columns).whole(), whole)


def test_a_head_on_two_ranks() -> None:
    """Key/value heads are repeated when there are more ranks than heads."""
    columns = tuple(shard_units(0, heads, 2, full=6).pieces for heads in ([0, 1], [1, None], [2, 2]))
    assert np.array_equal(TapValue(split(WHOLE, columns), columns).whole(), WHOLE)


def test_collected_rows_of_several_steps() -> None:
    collector = TapCollector()
    buffer = np.zeros((2, 3, 2), np.float16)
    for value in (1, 2):
        buffer[...] = value
        collector.add("a", buffer)  # the caller's memory may change afterwards
    collector.add("b", np.ones((1, 4)))
    joined = collector.joined()
    assert joined["a"].tolist() == [[1] * 6] * 2 + [[2] * 6] * 2
    assert joined["b"].shape == (1, 4)
    assert {array.dtype for array in joined.values()} == {np.dtype(np.float32)}


def test_rows_of_a_step() -> None:
    rows = np.arange(37)
    assert np.array_equal(np.concatenate([step_rows(rows, step) for step in steps_of(10)]), rows)
    assert step_rows(rows, steps_of(10)[3]).tolist() == list(range(30, 37))
