"""Shard rules: which part of a full tensor one rank holds, as data.

A rule is a list of pieces along one dimension. One implementation (`vamc_compiler.weights.shards`) slices every
model from them, and verification reassembles full tensors from the same data. No torch here: worker processes
that write weights import this file.

Dimension letters: H query heads, KV key/value heads, D head width, R ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vamc_runtime.errors import UserError


@dataclass(frozen=True)
class Piece:
    """A run of `length` elements: taken from `start` of the full dimension, or zeros when `start` is None."""

    start: int | None
    length: int


@dataclass(frozen=True)
class Shard:
    """The rank's part of a tensor: `pieces` along dimension `dim`, whose full size is `full`."""

    dim: int
    full: int
    pieces: tuple[Piece, ...]

    @property
    def local(self) -> int:
        """The rank's size along `dim`, padding included."""
        return sum(piece.length for piece in self.pieces)

    @property
    def is_part(self) -> bool:
        """Whether other ranks hold the rest."""
        return self.pieces != (Piece(0, self.full),)

    def local_shape(self, full_shape: Iterable[int]) -> tuple[int, ...]:
        """The rank's shape of a tensor with `full_shape`."""
        shape = list(full_shape)
        shape[self.dim] = self.local
        return tuple(shape)

    def full_shape(self, local_shape: Iterable[int]) -> tuple[int, ...]:
        """The shape in the checkpoint of a tensor whose rank-local shape is `local_shape`."""
        shape = list(local_shape)
        shape[self.dim] = self.full
        return tuple(shape)


def _merge(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Join neighbouring pieces that continue each other, so that reads are as long as they can be."""
    merged: list[Piece] = []
    for piece in pieces:
        if piece.length == 0:
            continue
        last = merged[-1] if merged else None
        zeros = last is not None and last.start is None and piece.start is None
        continues = (
            last is not None
            and last.start is not None
            and piece.start is not None
            and last.start + last.length == piece.start
        )
        if last is not None and (zeros or continues):
            merged[-1] = Piece(last.start, last.length + piece.length)
        else:
            merged.append(piece)
    return tuple(merged)


def shard_units(dim: int, units: Iterable[int | None], unit_size: int, *, full: int) -> Shard:
    """A rule that picks whole units (heads, say) of `unit_size` elements; None stands for a unit of zeros."""
    return Shard(dim, full, _merge(Piece(None if u is None else u * unit_size, unit_size) for u in units))


def shard_evenly(dim: int, full: int, rank: int, num_ranks: int) -> Shard:
    """An even split; the last ranks are padded with zeros when `num_ranks` does not divide `full`."""
    size = -(-full // num_ranks)
    start = min(rank * size, full)
    length = min(size, full - start)
    return Shard(dim, full, _merge((Piece(start, length), Piece(None, size - length))))


@dataclass(frozen=True)
class HeadLayout:
    """How attention heads lie on the ranks.

    Every rank has `num_kv_slots` key/value slots of `group` query slots each, so query slot i reads key/value slot
    i // group. A slot holds a true head or, as padding, zeros (None).
    """

    num_heads: int
    num_kv_heads: int
    num_ranks: int
    group: int
    num_kv_slots: int
    slots: tuple[tuple[int, tuple[int | None, ...]] | None, ...]

    @property
    def num_query_slots(self) -> int:
        """Query slots per rank."""
        return self.group * self.num_kv_slots

    def _of_rank(self, rank: int) -> tuple[tuple[int, tuple[int | None, ...]] | None, ...]:
        return self.slots[rank * self.num_kv_slots : (rank + 1) * self.num_kv_slots]

    def query_heads(self, rank: int) -> tuple[int | None, ...]:
        """The true query head in each of the rank's query slots, None where padded."""
        heads: list[int | None] = []
        for slot in self._of_rank(rank):
            heads += [None] * self.group if slot is None else list(slot[1])
        return tuple(heads)

    def query_sources(self, rank: int) -> tuple[int | None, ...]:
        """The query head whose projection each of the rank's query slots holds.

        A padded slot that reads a true key/value head repeats the first query head of its slot: the output projection
        drops the result, but it counts in the row's largest magnitude, which must be the same for every R.
        """
        heads: list[int | None] = []
        for slot in self._of_rank(rank):
            heads += [None] * self.group if slot is None else [slot[1][0] if head is None else head for head in slot[1]]
        return tuple(heads)

    def kv_heads(self, rank: int) -> tuple[int | None, ...]:
        """The true key/value head in each of the rank's key/value slots, None where padded."""
        return tuple(None if slot is None else slot[0] for slot in self._of_rank(rank))


def lay_out_heads(num_heads: int, num_kv_heads: int, num_ranks: int) -> HeadLayout:
    """Choose the cheapest layout of H query and KV key/value heads on R ranks.

    The query heads that share a key/value head are cut into blocks of `group`; a block and a copy of its key/value
    head fill one slot. The cost per rank, query slots + 2 * key/value slots, weighs the projections' width (a query
    head costs a row block in q and one in o, a key/value head one in k and one in v) and the KV cache. With KV = H
    this is plain padding to a multiple of R; with R > KV it replicates key/value heads.

    Raises:
        UserError: more ranks than query heads, or KV does not divide H.
    """
    if num_heads % num_kv_heads:
        raise UserError(
            f"the model has {num_heads} query heads and {num_kv_heads} key/value heads",
            expected="a number of query heads that is a multiple of the key/value heads",
        )
    if not 1 <= num_ranks <= num_heads:
        raise UserError(
            f"frontend.model_kwargs.tp is {num_ranks}, and the model has {num_heads} attention heads",
            expected=f"tp from 1 to {num_heads}: a rank without a single head would do nothing",
            fix="lower tp",
        )
    per_kv = num_heads // num_kv_heads

    def cost(group: int) -> tuple[int, int]:
        num_kv_slots = -(-num_kv_heads * -(-per_kv // group) // num_ranks)
        return num_kv_slots * group + 2 * num_kv_slots, num_kv_slots

    group = min(range(1, per_kv + 1), key=lambda g: (*cost(g), g))
    num_kv_slots = cost(group)[1]
    blocks: list[tuple[int, tuple[int | None, ...]] | None] = []
    for kv in range(num_kv_heads):
        heads: list[int | None] = list(range(kv * per_kv, (kv + 1) * per_kv))
        heads += [None] * (-len(heads) % group)
        blocks += [(kv, tuple(heads[i : i + group])) for i in range(0, len(heads), group)]
    blocks += [None] * (num_kv_slots * num_ranks - len(blocks))
    return HeadLayout(num_heads, num_kv_heads, num_ranks, group, num_kv_slots, tuple(blocks))
