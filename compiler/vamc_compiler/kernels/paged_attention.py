"""Paged attention: write the step's keys and values to their pages, then one online softmax per token and head.

Dimension letters as in `vamc_compiler.ops.paged_attention`: n tokens, h query heads, g key/value heads, d head width,
s tokens per page. Token-head pairs are spread over threads; a pair walks its pages in order, so memory is read in
runs of s*d keys and s*d values, and the running maximum, sum and output stay in registers or the first cache. A
plain kernel: query heads that share a key/value head each read it again.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from tvm import relax
from tvm.script import tirx as T

from vamc_compiler.kernels.work import SERIAL_WORK

SMALLEST = -3.0e38


def _lanes(head_dim: int) -> int:
    """The widest vector up to 16 floats that divides the head width."""
    return max(lanes for lanes in (1, 2, 4, 8, 16) if head_dim % lanes == 0)


@functools.cache  # parsing TVMScript takes 0.1 s, and every layer asks for the same function
def _paged_attention(heads: int, kv_heads: int, head_dim: int, page_tokens: int, scale: float, alibi: bool) -> Any:
    lanes = _lanes(head_dim)
    vectors = head_dim // lanes
    group = heads // kv_heads
    float_lanes, half_lanes = f"float32x{lanes}", f"float16x{lanes}"

    @T.macro
    def append(key, value, kv_cache, position, row, table, pair):
        for vector in T.unroll(vectors):
            kv_cache[
                T.cast(table[row[pair // kv_heads], position[pair // kv_heads] // page_tokens], "int64"),
                0,
                pair % kv_heads,
                position[pair // kv_heads] % page_tokens,
                T.ramp(vector * lanes, 1, lanes),
            ] = T.cast(key[pair // kv_heads, pair % kv_heads, T.ramp(vector * lanes, 1, lanes)], half_lanes)
            kv_cache[
                T.cast(table[row[pair // kv_heads], position[pair // kv_heads] // page_tokens], "int64"),
                1,
                pair % kv_heads,
                position[pair // kv_heads] % page_tokens,
                T.ramp(vector * lanes, 1, lanes),
            ] = T.cast(value[pair // kv_heads, pair % kv_heads, T.ramp(vector * lanes, 1, lanes)], half_lanes)

    @T.macro
    def attend(query, kv_cache, position, row, table, slopes, output, pair):
        products = T.sblock_alloc_buffer((lanes,), "float32", scope="local")
        score = T.sblock_alloc_buffer((1,), "float32", scope="local")
        largest = T.sblock_alloc_buffer((2,), "float32", scope="local")
        total = T.sblock_alloc_buffer((1,), "float32", scope="local")
        factor = T.sblock_alloc_buffer((2,), "float32", scope="local")
        sums = T.sblock_alloc_buffer((head_dim,), "float32", scope="local")
        largest[0] = T.float32(SMALLEST)
        total[0] = T.float32(0)
        for vector in T.unroll(vectors):
            sums[T.ramp(vector * lanes, 1, lanes)] = T.broadcast(T.float32(0), lanes)
        for j in T.serial(position[pair // heads] + 1):
            products[T.ramp(0, 1, lanes)] = T.broadcast(T.float32(0), lanes)
            for vector in T.unroll(vectors):
                products[T.ramp(0, 1, lanes)] = products[T.ramp(0, 1, lanes)] + query[
                    pair // heads, pair % heads, T.ramp(vector * lanes, 1, lanes)
                ] * T.cast(
                    kv_cache[
                        T.cast(table[row[pair // heads], j // page_tokens], "int64"),
                        0,
                        pair % heads // group,
                        j % page_tokens,
                        T.ramp(vector * lanes, 1, lanes),
                    ],
                    float_lanes,
                )
            score[0] = T.float32(0)
            for lane in T.unroll(lanes):
                score[0] = score[0] + products[lane]
            score[0] = score[0] * T.float32(scale)
            if alibi:
                score[0] = score[0] + slopes[pair % heads] * T.cast(j, "float32")
            largest[1] = T.max(largest[0], score[0])
            factor[0] = T.exp(largest[0] - largest[1])
            factor[1] = T.exp(score[0] - largest[1])
            largest[0] = largest[1]
            total[0] = total[0] * factor[0] + factor[1]
            for vector in T.unroll(vectors):
                sums[T.ramp(vector * lanes, 1, lanes)] = sums[T.ramp(vector * lanes, 1, lanes)] * T.broadcast(
                    factor[0], lanes
                ) + T.broadcast(factor[1], lanes) * T.cast(
                    kv_cache[
                        T.cast(table[row[pair // heads], j // page_tokens], "int64"),
                        1,
                        pair % heads // group,
                        j % page_tokens,
                        T.ramp(vector * lanes, 1, lanes),
                    ],
                    float_lanes,
                )
        for vector in T.unroll(vectors):
            output[pair // heads, pair % heads, T.ramp(vector * lanes, 1, lanes)] = sums[
                T.ramp(vector * lanes, 1, lanes)
            ] / T.broadcast(total[0], lanes)

    @T.macro
    def body(n, width, query, key, value, kv_cache, position, row, table, slopes, output):
        # The longest context of the step is at most the table's width: a bound that needs no look at positions.
        if n * width * (page_tokens * heads * head_dim) <= SERIAL_WORK:
            for pair in T.serial(n * kv_heads):
                append(key, value, kv_cache, position, row, table, pair)
            for pair in T.serial(n * heads):
                attend(query, kv_cache, position, row, table, slopes, output, pair)
        else:
            for pair in T.parallel(n * kv_heads):
                append(key, value, kv_cache, position, row, table, pair)
            for pair in T.parallel(n * heads):
                attend(query, kv_cache, position, row, table, slopes, output, pair)

    @T.macro
    def matched(
        query_handle, key_handle, value_handle, cache_handle, position_handle, row_handle, table_handle,
        slopes_handle, output_handle,
    ):  # fmt: skip
        n = T.int64()
        pages = T.int64()
        sequences = T.int64()
        width = T.int64()
        query = T.match_buffer(query_handle, (n, heads, head_dim), "float32")
        key = T.match_buffer(key_handle, (n, kv_heads, head_dim), "float32")
        value = T.match_buffer(value_handle, (n, kv_heads, head_dim), "float32")
        kv_cache = T.match_buffer(cache_handle, (pages, 2, kv_heads, page_tokens, head_dim), "float16")
        position = T.match_buffer(position_handle, (n,), "int32")
        row = T.match_buffer(row_handle, (n,), "int32")
        table = T.match_buffer(table_handle, (sequences, width), "int32")
        output = T.match_buffer(output_handle, (n, heads, head_dim), "float32")
        if alibi:
            slopes = T.match_buffer(slopes_handle, (heads,), "float32")
            body(n, width, query, key, value, kv_cache, position, row, table, slopes, output)
        else:
            body(n, width, query, key, value, kv_cache, position, row, table, query, output)

    if alibi:

        @T.prim_func(private=True, s_tir=True)
        def with_slopes(
            q: T.handle, k: T.handle, v: T.handle, c: T.handle, p: T.handle, r: T.handle, t: T.handle,
            s: T.handle, o: T.handle,
        ):  # fmt: skip
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            matched(q, k, v, c, p, r, t, s, o)

        return with_slopes

    @T.prim_func(private=True, s_tir=True)
    def without_slopes(
        q: T.handle, k: T.handle, v: T.handle, c: T.handle, p: T.handle, r: T.handle, t: T.handle, o: T.handle
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        matched(q, k, v, c, p, r, t, o, o)

    return without_slopes


@dataclass(frozen=True)
class PagedAttention:
    """The kernel's entry in the table.

    Page numbers are widened to int64 before they are multiplied: a cache may have more than 2^31 elements.
    """

    packing: None = None

    def emit(self, builder: Any, *inputs: Any, **attributes: Any) -> Any:
        """Call the kernel in place on the cache; returns the tuple (attended, kv_cache)."""
        query, key, value, kv_cache, *rest = [builder.normalize(x) for x in inputs]
        slopes = attributes["slopes"]
        _, heads, head_dim = query.ty.shape
        _, _, kv_heads, page_tokens, _ = kv_cache.ty.shape
        function = _paged_attention(
            int(heads), int(kv_heads), int(head_dim), int(page_tokens), attributes["scale"], slopes is not None
        )
        variable = builder.add_func(function, f"paged_attention_{int(heads)}x{int(kv_heads)}x{int(head_dim)}")
        arguments = [query, key, value, kv_cache, *rest, *([] if slopes is None else [slopes])]
        # Output 0 is new, output 1 is argument 3 updated in place: the pages are never copied.
        result = builder.emit(relax.op.call_tir_inplace(variable, arguments, [-1, 3], [query.ty, kv_cache.ty]))
        return relax.Tuple([builder.emit(relax.TupleGetItem(result, i)) for i in range(2)])


PAGED_ATTENTION = PagedAttention()
