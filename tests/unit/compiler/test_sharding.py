"""No shard rule loses, duplicates or misplaces an element."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vamc_compiler.sharding import HeadLayout, Piece, Shard, lay_out_heads, shard_evenly, shard_units
from vamc_runtime.errors import UserError

Array = npt.NDArray[np.int64]
ZERO = -1
"""Stands for a padded element in index lists."""


def take(shard: Shard) -> list[int]:
    """The indices of the full dimension that the rank holds, one by one."""
    indices: list[int] = []
    for piece in shard.pieces:
        indices += [ZERO] * piece.length if piece.start is None else range(piece.start, piece.start + piece.length)
    return indices


@st.composite
def layouts(draw: st.DrawFn) -> HeadLayout:
    num_kv_heads = draw(st.integers(1, 12))
    num_heads = num_kv_heads * draw(st.integers(1, 12))
    return lay_out_heads(num_heads, num_kv_heads, draw(st.integers(1, num_heads)))


@settings(deadline=None)
@given(layouts())
def test_every_query_head_is_computed_once_and_reads_its_own_key_value_head(layout: HeadLayout) -> None:
    per_kv = layout.num_heads // layout.num_kv_heads
    computed: list[int] = []
    for rank in range(layout.num_ranks):
        queries, keys = layout.query_heads(rank), layout.kv_heads(rank)
        assert len(keys) == layout.num_kv_slots
        assert len(queries) == layout.num_query_slots == layout.group * layout.num_kv_slots
        for slot, head in enumerate(queries):
            if head is not None:
                assert keys[slot // layout.group] == head // per_kv
                computed.append(head)
    assert sorted(computed) == list(range(layout.num_heads))


@settings(deadline=None)
@given(layouts())
def test_a_padded_query_computes_nothing_that_a_true_one_does_not(layout: HeadLayout) -> None:
    """Its values count in the largest magnitude of a row, over all ranks."""
    for rank in range(layout.num_ranks):
        heads, sources = layout.query_heads(rank), layout.query_sources(rank)
        assert len(sources) == len(heads)
        for slot, (head, source) in enumerate(zip(heads, sources, strict=True)):
            first = slot // layout.group * layout.group
            same_keys = heads[first : first + layout.group]
            assert source == head if head is not None else source in same_keys
            assert (source is None) == all(other is None for other in same_keys)


@settings(deadline=None)
@given(layouts())
def test_key_value_heads_are_all_there_and_none_is_idle(layout: HeadLayout) -> None:
    held = [head for rank in range(layout.num_ranks) for head in layout.kv_heads(rank)]
    assert {head for head in held if head is not None} == set(range(layout.num_kv_heads))
    for rank in range(layout.num_ranks):
        queries = layout.query_heads(rank)
        for slot, head in enumerate(layout.kv_heads(rank)):
            mine = queries[slot * layout.group : (slot + 1) * layout.group]
            assert (head is None) == all(query is None for query in mine)


@settings(deadline=None)
@given(st.integers(1, 16), st.integers(1, 16))
def test_without_grouping_the_layout_is_plain_padding(num_heads: int, num_ranks: int) -> None:
    assume(num_ranks <= num_heads)
    layout = lay_out_heads(num_heads, num_heads, num_ranks)
    assert layout.group == 1
    assert layout.num_kv_slots == -(-num_heads // num_ranks)
    heads = [head for rank in range(num_ranks) for head in layout.query_heads(rank)]
    assert heads == [*range(num_heads), *[None] * (len(heads) - num_heads)]


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "num_ranks", "group", "kv_heads"),
    [
        (32, 8, 1, 4, [tuple(range(8))]),
        (32, 8, 4, 4, [(0, 1), (2, 3), (4, 5), (6, 7)]),
        (32, 2, 4, 8, [(0,), (0,), (1,), (1,)]),  # more ranks than key/value heads: replicas
        (8, 1, 4, 2, [(0,)] * 4),
        (6, 2, 4, 2, [(0,), (0,), (1,), (1,)]),  # and padded query slots beside them
        (40, 40, 16, 1, None),
    ],
)
def test_known_layouts(
    num_heads: int, num_kv_heads: int, num_ranks: int, group: int, kv_heads: list[tuple[int, ...]] | None
) -> None:
    layout = lay_out_heads(num_heads, num_kv_heads, num_ranks)
    assert layout.group == group
    if kv_heads is not None:
        assert [layout.kv_heads(rank) for rank in range(num_ranks)] == kv_heads


@settings(deadline=None)
@given(layouts())
def test_no_uniform_group_would_be_cheaper(layout: HeadLayout) -> None:
    def cost(group: int, slots: int) -> int:
        return slots * group + 2 * slots

    per_kv = layout.num_heads // layout.num_kv_heads
    for group in range(1, per_kv + 1):
        blocks = layout.num_kv_heads * -(-per_kv // group)
        assert cost(layout.group, layout.num_kv_slots) <= cost(group, -(-blocks // layout.num_ranks))


def test_more_ranks_than_heads_is_refused() -> None:
    with pytest.raises(UserError, match="tp is 7, and the model has 6 attention heads") as caught:
        lay_out_heads(6, 6, 7)
    assert "tp from 1 to 6" in caught.value.expected
    with pytest.raises(UserError, match="tp is 0"):
        lay_out_heads(6, 6, 0)


def test_key_value_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="6 query heads and 4 key/value heads"):
        lay_out_heads(6, 4, 2)


@given(full=st.integers(1, 200), num_ranks=st.integers(1, 17))
def test_even_shards_are_equal_and_reassemble_exactly(full: int, num_ranks: int) -> None:
    shards = [shard_evenly(0, full, rank, num_ranks) for rank in range(num_ranks)]
    assert {shard.local for shard in shards} == {-(-full // num_ranks)}
    assert {shard.full for shard in shards} == {full}
    taken = [index for shard in shards for index in take(shard)]
    assert taken == [*range(full), *[ZERO] * (len(taken) - full)]  # padding only behind the last element


@given(
    units=st.lists(st.none() | st.integers(0, 9), min_size=0, max_size=12),
    unit_size=st.integers(1, 5),
    dim=st.sampled_from((0, 1)),
)
def test_merging_units_equals_the_naive_list(units: list[int | None], unit_size: int, dim: int) -> None:
    shard = shard_units(dim, units, unit_size, full=10 * unit_size)
    naive = [ZERO if u is None else u * unit_size + i for u in units for i in range(unit_size)]
    assert take(shard) == naive
    assert shard.local == len(naive)
    assert (shard.dim, shard.full) == (dim, 10 * unit_size)
    for left, right in zip(shard.pieces, shard.pieces[1:], strict=False):
        both_zeros = left.start is None and right.start is None
        continued = left.start is not None and right.start == left.start + left.length
        assert not both_zeros and not continued, "neighbours that continue each other are one piece"


def test_neighbouring_heads_are_read_in_one_run() -> None:
    shard = shard_units(0, [2, 3, None, None, 7], 4, full=32)
    assert shard.pieces == (Piece(8, 8), Piece(None, 8), Piece(28, 4))


@given(rows=st.integers(1, 30), columns=st.integers(1, 30), dim=st.sampled_from((0, 1)), num_ranks=st.integers(1, 7))
def test_shapes_go_both_ways(rows: int, columns: int, dim: int, num_ranks: int) -> None:
    full_shape = (rows, columns)
    for rank in range(num_ranks):
        shard = shard_evenly(dim, full_shape[dim], rank, num_ranks)
        local = shard.local_shape(full_shape)
        assert local[dim] == shard.local and local[1 - dim] == full_shape[1 - dim]
        assert shard.full_shape(local) == full_shape


@settings(deadline=None, max_examples=60)
@given(layout=layouts(), head_dim=st.integers(1, 3), seed=st.integers(0, 99))
def test_attention_over_ranks_is_attention(layout: HeadLayout, head_dim: int, seed: int) -> None:
    """The rules together: per-rank projections, grouped reading and the row-parallel sum give the full result."""
    rng = np.random.default_rng(seed)
    num_heads, num_kv_heads = layout.num_heads, layout.num_kv_heads
    query: Array = rng.integers(-9, 10, num_heads * head_dim)
    key: Array = rng.integers(-9, 10, num_kv_heads * head_dim)
    output: Array = rng.integers(-9, 10, (3, num_heads * head_dim))
    repeated = key.reshape(num_kv_heads, head_dim).repeat(num_heads // num_kv_heads, 0)
    full = output @ (query.reshape(num_heads, head_dim) * repeated).ravel()

    def part(values: Array, units: tuple[int | None, ...], dim: int) -> Array:
        indices = np.array(take(shard_units(dim, units, head_dim, full=values.shape[dim])))
        return np.where(indices == ZERO, 0, values[..., indices] if values.ndim > 1 else values[indices])

    total = np.zeros(3, np.int64)
    for rank in range(layout.num_ranks):
        queries = part(query, layout.query_heads(rank), 0).reshape(-1, head_dim)
        keys = part(key, layout.kv_heads(rank), 0).reshape(-1, head_dim).repeat(layout.group, 0)
        total += part(output, layout.query_heads(rank), 1) @ (queries * keys).ravel()
    np.testing.assert_array_equal(total, full)
