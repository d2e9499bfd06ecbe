"""Paged attention: rotate and append the step's keys and values, then an online softmax over blocks of keys.

Dimension letters: n tokens, h query heads, g key/value heads, d head width, s = 16 tokens per page, r rows of a tile,
w pages of a sequence in the table. A row is one query: a token and a head.

- Inside a page, a head's keys lie transposed, [d, s], and its values straight, [s, d]: both products then multiply one
  query (or weight) with a vector of 16 neighbours, and no sum runs across a vector.
- A tile takes several rows that share keys: the query heads of a group, and neighbouring tokens of one sequence. It
  reads keys and values once for all of them, its sums stay in registers.
- The context is walked in blocks of `BLOCK_KEYS` from position 0, and in chunks of `CHUNK_KEYS`, each with a softmax
  of its own, merged in order. A row's arithmetic is the same in whatever tile it is, and chunks may go to different
  threads: a few sequences with long contexts still occupy every core.
- ALiBi, when there are slopes, adds slope * key position.

Bound: in decode a streaming read of keys and values, in prefill the fp32 FMA peak (how near, and what the rest is:
docs/kernels.md).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vamc_compiler.kernels import tir, vector_math
from vamc_compiler.kernels.tir import LANES, Buffer, Expr, Registers, cast, load, splat, store

BLOCK_PAGES = 4
BLOCK_KEYS = BLOCK_PAGES * LANES
CHUNK_BLOCKS = 16
CHUNK_KEYS = CHUNK_BLOCKS * BLOCK_KEYS
MOST_SPLIT_TOKENS = 16
"""Steps of more tokens have enough rows for every thread: their chunks stay on one."""
FETCHING_ROWS = 2
"""Tiles of up to this many rows fetch keys and values ahead."""
SMALLEST = -3.0e38
KEYS, VALUES = 0, 1


@dataclass(frozen=True)
class TileShape:
    """What fits the registers: rows times vectors are the sums of a tile."""

    rows: int
    vectors: int


@dataclass(frozen=True)
class Shape:
    """Sizes that are known when the kernel is built."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    alibi: bool
    rotary: bool

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.heads // self.kv_heads


def pieces(width: int) -> Iterator[tuple[int, int]]:
    """(first element, lanes) of vectors that cover `width` elements."""
    first, lanes = 0, LANES
    while first < width:
        if width - first >= lanes:
            yield first, lanes
            first += lanes
        else:
            lanes //= 2


@dataclass(frozen=True)
class _Step:
    """The buffers of one call."""

    shape: Shape
    tile_shape: TileShape
    query: Buffer
    key: Buffer
    value: Buffer
    cache: Buffer
    position: Buffer
    sequence: Buffer
    table: Buffer
    slopes: Buffer | None
    cosine: Buffer | None
    sine: Buffer | None
    output: Buffer
    tokens: Expr
    table_pages: Expr

    def rotated(self, source: Buffer, token: Expr, head: Expr) -> Iterator[tuple[int, int, Expr]]:
        """A query or key in pieces (first element, lanes, values), rotary embedding applied (rotate-half form)."""
        width = self.shape.head_dim
        if self.cosine is None or self.sine is None:
            for first, lanes in pieces(width):
                yield first, lanes, load(source, token, head, first, lanes=lanes)
            return
        half = width // 2
        for first, lanes in pieces(half):
            low = load(source, token, head, first, lanes=lanes)
            high = load(source, token, head, half + first, lanes=lanes)
            for start, straight, turned in ((first, low, splat(0.0, lanes=lanes) - high), (half + first, high, low)):
                cosine = load(self.cosine, token, 0, start, lanes=lanes)
                sine = load(self.sine, token, 0, start, lanes=lanes)
                yield start, lanes, straight * cosine + turned * sine

    def page(self, sequence: Expr, index: Expr) -> Expr:
        """Number of a page; int64, as a cache may have more than 2^31 elements."""
        within = tir.smaller(cast(index, "int64", 1), self.table_pages - 1)
        return tir.opaque(cast(self.table[sequence, within], "int64", 1))

    def append(self, token: Expr, kv_head: Expr) -> None:
        """Write a token's key and value of one head to its page."""
        width = self.shape.head_dim
        where = tir.opaque(cast(self.position[token], "int64", 1))
        page = self.page(self.sequence[token], where // LANES)
        slot = tir.opaque(where % LANES)
        for first, lanes, values in self.rotated(self.key, token, kv_head):
            halves = Registers(1, "float16", lanes)
            halves[0] = cast(values, "float16", lanes)
            for lane in range(lanes):
                store(self.cache, halves.lane(0, lane), page, KEYS, kv_head, 0, (first + lane) * LANES + slot, lanes=1)
        for first, lanes in pieces(width):
            values = cast(load(self.value, token, kv_head, first, lanes=lanes), "float16", lanes)
            store(self.cache, values, page, VALUES, kv_head, slot, first, lanes=lanes)


class _Tile:
    """`rows` queries over the keys of one sequence and one key/value head; see the module's header for the scheme."""

    def __init__(
        self, step: _Step, rows: int, sequence: Expr, kv_head: Expr, place: Callable[[int], tuple[Expr, Expr]]
    ) -> None:
        """`place` gives token and head of a row."""
        self.step, self.rows, self.sequence, self.kv_head, self.place = step, rows, sequence, kv_head, place
        self.width = step.shape.head_dim
        self.query = tir.StackRows(rows, self.width)
        self.scores = tir.StackRows(rows, BLOCK_KEYS)
        self.sums = tir.StackRows(rows, self.width)
        self.largest = tir.StackRows(1, LANES)
        self.top = tir.StackRows(1, LANES)
        self.factor = tir.StackRows(1, LANES)
        self.weights = Registers(rows)
        self.positions = [tir.opaque(step.position[place(row)[0]], "int32") for row in range(rows)]
        scale = step.shape.scale
        for row in range(rows):
            for first, lanes, values in step.rotated(step.query, *place(row)):
                self.query.store(row, first, values * splat(scale, lanes=lanes), lanes)

    def num_keys(self) -> Expr:
        """Keys that the last of the rows may see."""
        last = self.positions[0]
        for position in self.positions[1:]:
            last = tir.larger(last, position)
        return tir.opaque(last + 1, "int32")

    def begin(self) -> None:
        """Start a softmax."""
        self.largest.store(0, 0, splat(SMALLEST))
        self.top.store(0, 0, splat(SMALLEST))
        for row in range(self.rows):
            self.weights[row] = splat(0.0)
            for first, lanes in pieces(self.width):
                self.sums.store(row, first, splat(0.0, lanes=lanes), lanes)

    def chunk(self, number: Expr, num_keys: Expr) -> None:
        """Walk one chunk of the context."""
        blocks = tir.smaller((num_keys - number * CHUNK_KEYS + (BLOCK_KEYS - 1)) // BLOCK_KEYS, CHUNK_BLOCKS)
        with tir.serial(0, tir.opaque(cast(blocks, "int32", 1), "int32")) as block:
            first_key = tir.opaque(number * CHUNK_KEYS + block * BLOCK_KEYS, "int32")
            count = tir.opaque(tir.smaller(num_keys - first_key, BLOCK_KEYS), "int32")
            with tir.own_function("scores"):
                self._scores(first_key)
            with tir.own_function("softmax"):
                self._softmax(first_key)
            with tir.own_function("accumulate"):
                self._accumulate(first_key, count)

    def _scores(self, first_key: Expr) -> None:
        """scores[r, block] = query[r, d] * keys[d, block]."""
        vectors = self.step.tile_shape.vectors
        for first_page in range(0, BLOCK_PAGES, vectors):
            pages = [self.step.page(self.sequence, first_key // LANES + first_page + v) for v in range(vectors)]
            ahead = self._pages_ahead(first_key, first_page, vectors)
            sums = Registers(self.rows * vectors)
            for register in range(self.rows * vectors):
                sums[register] = splat(0.0)
            with tir.serial(0, self.width) as d:
                for page in ahead:
                    # The first half of the loop fetches the next block's keys, the second its values, line by line.
                    half, line = 2 * d // self.width, 2 * d % self.width
                    tir.prefetch(self.step.cache, page, half, self.kv_head, 0, line * LANES)
                keys = [
                    cast(load(self.step.cache, page, KEYS, self.kv_head, 0, d * LANES), "float32") for page in pages
                ]
                for row in range(self.rows):
                    query = splat(self.query.load(row, d, 1))
                    for v in range(vectors):
                        register = row * vectors + v
                        sums[register] = sums[register] + query * keys[v]
            for row in range(self.rows):
                for v in range(vectors):
                    self.scores.store(row, (first_page + v) * LANES, sums[row * vectors + v])

    def _pages_ahead(self, first_key: Expr, first_page: int, vectors: int) -> list[Expr]:
        """Pages of the next block to fetch ahead, where a tile has so few rows that it waits for memory.

        A head's part of a page is too short for the CPU to notice a stream by itself.
        """
        if self.rows > FETCHING_ROWS:
            return []
        first = first_key // LANES + BLOCK_PAGES + first_page
        return [self.step.page(self.sequence, first + v) for v in range(vectors)]

    def _softmax(self, first_key: Expr) -> None:
        """Turn scores into weights relative to the running maximum, 0 where a key comes after the query.

        Step by step for all rows at once: the exponentials of one row would wait for one another.
        """
        for row in range(self.rows):
            top = splat(SMALLEST)
            for page in range(BLOCK_PAGES):
                keys = tir.ramp(first_key + page * LANES)
                score = self.scores.load(row, page * LANES)
                if self.step.slopes is not None:
                    score = score + splat(self.step.slopes[self.place(row)[1]]) * cast(keys, "float32")
                visible = tir.select(keys <= splat(self.positions[row], "int32"), score, splat(SMALLEST))
                self.scores.store(row, page * LANES, visible)
                top = tir.larger(top, self.scores.load(row, page * LANES))
            self.top.store(0, row, tir.largest_lane(top), 1)
        before = self.largest.load(0, 0)
        self.top.store(0, 0, tir.larger(before, self.top.load(0, 0)))
        self.factor.store(0, 0, vector_math.exp(before - self.top.load(0, 0)))
        self.largest.store(0, 0, self.top.load(0, 0))
        for row in range(self.rows):
            for page in range(BLOCK_PAGES):
                weight = vector_math.exp(self.scores.load(row, page * LANES) - splat(self.largest.load(0, row, 1)))
                self.scores.store(row, page * LANES, weight)
        for row in range(self.rows):
            self.weights[row] = self.weights[row] * splat(self.factor.load(0, row, 1))
            for page in range(BLOCK_PAGES):
                self.weights[row] = self.weights[row] + self.scores.load(row, page * LANES)

    def _accumulate(self, first_key: Expr, count: Expr) -> None:
        """sums[r, d] = sums * factor + weights[r, keys] * values[keys, d]; keys that no row sees are not read."""
        vectors = self.step.tile_shape.vectors
        columns = list(pieces(self.width))
        for start in range(0, len(columns), vectors):
            self._accumulate_columns(columns[start : start + vectors], first_key, count)

    def _accumulate_columns(self, columns: Sequence[tuple[int, int]], first_key: Expr, count: Expr) -> None:
        """As many columns of the sums as registers hold."""
        sums = [[Registers(1, lanes=lanes) for _, lanes in columns] for _ in range(self.rows)]
        for row in range(self.rows):
            for register, (first, lanes) in zip(sums[row], columns, strict=True):
                register[0] = self.sums.load(row, first, lanes) * splat(self.factor.load(0, row, 1), lanes=lanes)

        def add_page(page_index: Expr, keys: Expr | int) -> None:
            page = self.step.page(self.sequence, first_key // LANES + page_index)
            with tir.serial(0, keys) as slot:
                values = [
                    cast(load(self.step.cache, page, VALUES, self.kv_head, slot, first, lanes=n), "float32", n)
                    for first, n in columns
                ]
                for row in range(self.rows):
                    weight = self.scores.load(row, page_index * LANES + slot, 1)
                    for register, value, (_, lanes) in zip(sums[row], values, columns, strict=True):
                        register[0] = register[0] + splat(weight, lanes=lanes) * value

        # A loop of constant length keeps its sums in registers; of unknown length, LLVM unrolls it into spills.
        with tir.serial(0, tir.opaque(count // LANES, "int32")) as page_index:
            add_page(page_index, LANES)
        add_page(count // LANES, tir.opaque(count % LANES, "int32"))
        for row in range(self.rows):
            for register, (first, lanes) in zip(sums[row], columns, strict=True):
                self.sums.store(row, first, register[0], lanes)


class _Totals:
    """Results of chunks, merged in order: the softmax over all of them."""

    def __init__(self, rows: int, width: int) -> None:
        self.rows, self.width = rows, width
        self.sums = tir.StackRows(rows, width)
        self.largest, self.weights = Registers(rows, lanes=1), Registers(rows, lanes=1)
        for row in range(rows):
            self.largest[row] = tir.constant(SMALLEST)
            self.weights[row] = tir.constant(0.0)
            for first, lanes in pieces(width):
                self.sums.store(row, first, splat(0.0, lanes=lanes), lanes)

    def merge(self, row: int, largest: Expr, weight: Expr, sums: Callable[[int, int], Expr]) -> None:
        """Take one row's chunk in; `sums` gives its values by piece."""
        top = tir.opaque(tir.larger(self.largest[row], largest), "float32")
        before = tir.opaque(vector_math.exp(self.largest[row] - top, lanes=1), "float32")
        now = tir.opaque(vector_math.exp(largest - top, lanes=1), "float32")
        self.largest[row] = top
        self.weights[row] = self.weights[row] * before + weight * now
        for first, lanes in pieces(self.width):
            mine = self.sums.load(row, first, lanes) * splat(before, lanes=lanes)
            self.sums.store(row, first, mine + sums(first, lanes) * splat(now, lanes=lanes), lanes)

    def write(self, row: int, output: Buffer, token: Expr, head: Expr) -> None:
        """The row's result."""
        for first, lanes in pieces(self.width):
            value = self.sums.load(row, first, lanes) / splat(self.weights[row], lanes=lanes)
            store(output, value, token, head, first, lanes=lanes)


def _in_one_go(tile: _Tile) -> None:
    """All chunks of a tile on this thread."""
    num_keys = tile.num_keys()

    def one_chunk() -> None:
        # What merging a single chunk would give, bit for bit.
        tile.begin()
        tile.chunk(tir.constant(0, "int32"), num_keys)
        for row in range(tile.rows):
            weight = tir.opaque(tir.sum_of_lanes(tile.weights, row), "float32")
            token, head = tile.place(row)
            for first, lanes in pieces(tile.width):
                value = tile.sums.load(row, first, lanes) / splat(weight, lanes=lanes)
                store(tile.step.output, value, token, head, first, lanes=lanes)

    tir.when(num_keys <= CHUNK_KEYS, one_chunk, lambda: _merge_chunks(tile, num_keys))


def _merge_chunks(tile: _Tile, num_keys: Expr) -> None:
    """A context of several chunks."""
    totals = _Totals(tile.rows, tile.width)
    with tir.serial(0, tir.opaque((num_keys + (CHUNK_KEYS - 1)) // CHUNK_KEYS, "int32")) as number:
        tile.begin()
        tile.chunk(number, num_keys)
        for row in range(tile.rows):
            totals.merge(
                row,
                tile.largest.load(0, row, 1),
                tir.sum_of_lanes(tile.weights, row),
                functools.partial(tile.sums.load, row),
            )
    for row in range(tile.rows):
        totals.write(row, tile.step.output, *tile.place(row))


def _head_parts(step: _Step) -> list[tuple[int, int]]:
    """(first head, heads) of the parts of a group that fit a tile, as equal as they can be."""
    group = step.shape.group
    parts = -(-group // step.tile_shape.rows)
    edges = [part * group // parts for part in range(parts + 1)]
    return [(first, last - first) for first, last in itertools.pairwise(edges)]


def _token_tile(step: _Step, token: Expr, num_tokens: int, kv_head: Expr, first: int, heads: int) -> _Tile:
    """A tile of neighbouring tokens of one sequence, and some heads of a group."""

    def place(row: int) -> tuple[Expr, Expr]:
        return token + row // heads, kv_head * step.shape.group + first + row % heads

    return _Tile(step, num_tokens * heads, step.sequence[token], kv_head, place)


def _together(step: _Step) -> None:
    """Tiles of tokens and heads, each with its whole context."""
    parts = _head_parts(step)
    per_tile = max(1, step.tile_shape.rows // step.shape.group)
    tiles = tir.opaque((step.tokens + (per_tile - 1)) // per_tile)
    with tir.parallel(0, step.shape.kv_heads * tiles) as unit:
        kv_head = tir.opaque(unit // tiles)
        token = tir.opaque(unit % tiles * per_tile)

        def run(token: Expr, num_tokens: int) -> None:
            for first, heads in parts:
                _in_one_go(_token_tile(step, token, num_tokens, kv_head, first, heads))

        def one_by_one() -> None:
            with tir.serial(0, tir.opaque(tir.smaller(step.tokens - token, per_tile))) as index:
                run(tir.opaque(token + index), 1)

        if per_tile == 1:
            run(token, 1)
        else:
            alike = tir.variable(tir.constant(0, "int64"))
            with tir.serial(0, tir.opaque(tir.smaller(step.tokens - token, per_tile))) as index:
                same = step.sequence[token + index] == step.sequence[token]
                alike[0] = alike[0] + tir.select(same, tir.constant(1, "int64"), tir.constant(0, "int64"))
            tir.when(alike[0] == per_tile, lambda: run(token, per_tile), one_by_one)


def _split(step: _Step, chunks: Expr) -> None:
    """Chunks of the context on different threads, then merged."""
    shape = step.shape
    width = shape.head_dim
    sums = tir.scratch((step.tokens, shape.heads, chunks, width), "float32")
    state = tir.scratch((step.tokens, shape.heads, chunks, 2), "float32")
    with tir.parallel(0, step.tokens * shape.kv_heads * chunks) as unit:
        token = tir.opaque(unit // (shape.kv_heads * chunks))
        kv_head = tir.opaque(unit // chunks % shape.kv_heads)
        number = tir.opaque(unit % chunks)

        def attend() -> None:
            for first, heads in _head_parts(step):
                tile = _token_tile(step, token, 1, kv_head, first, heads)
                tile.begin()
                tile.chunk(cast(number, "int32", 1), tile.num_keys())
                for row in range(heads):
                    head = tile.place(row)[1]
                    store(state, tile.largest.load(0, row, 1), token, head, number, 0, lanes=1)
                    store(state, tir.sum_of_lanes(tile.weights, row), token, head, number, 1, lanes=1)
                    for start, lanes in pieces(width):
                        store(sums, tile.sums.load(row, start, lanes), token, head, number, start, lanes=lanes)

        tir.when(number * CHUNK_KEYS <= cast(step.position[token], "int64", 1), attend)
    with tir.parallel(0, step.tokens * shape.heads) as unit:
        token, head = tir.opaque(unit // shape.heads), tir.opaque(unit % shape.heads)
        totals = _Totals(1, width)
        with tir.serial(0, tir.opaque(cast(step.position[token], "int64", 1) // CHUNK_KEYS + 1)) as number:
            totals.merge(
                0,
                state[token, head, number, 0],
                state[token, head, number, 1],
                lambda start, lanes: load(sums, token, head, number, start, lanes=lanes),
            )
        totals.write(0, step.output, token, head)


@functools.cache
def attention_kernel(shape: Shape, tile_shape: TileShape) -> tir.Kernel:
    """The function (query, key, value, cache, positions, sequences, table[, slopes][, cosine, sine], output)."""
    heads, kv_heads, width = shape.heads, shape.kv_heads, shape.head_dim
    name = f"paged_attention_{heads}x{kv_heads}x{width}"
    with tir.function(name) as builder:
        tokens, pages, sequences, table_pages = tir.size(), tir.size(), tir.size(), tir.size()
        step = _Step(
            shape=shape,
            tile_shape=tile_shape,
            query=tir.argument("query", (tokens, heads, width), "float32"),
            key=tir.argument("key", (tokens, kv_heads, width), "float32"),
            value=tir.argument("value", (tokens, kv_heads, width), "float32"),
            cache=tir.argument("cache", (pages, 2, kv_heads, LANES, width), "float16"),
            position=tir.argument("position", (tokens,), "int32"),
            sequence=tir.argument("sequence", (tokens,), "int32"),
            table=tir.argument("table", (sequences, table_pages), "int32"),
            slopes=tir.argument("slopes", (heads,), "float32") if shape.alibi else None,
            cosine=tir.argument("cosine", (tokens, 1, width), "float32") if shape.rotary else None,
            sine=tir.argument("sine", (tokens, 1, width), "float32") if shape.rotary else None,
            output=tir.argument("output", (tokens, heads, width), "float32"),
            tokens=tokens,
            table_pages=table_pages,
        )
        with tir.parallel(0, tokens * kv_heads) as unit:
            step.append(tir.opaque(unit // kv_heads), tir.opaque(unit % kv_heads))
        chunks = (table_pages * LANES + (CHUNK_KEYS - 1)) // CHUNK_KEYS
        many = tir.opaque(tir.select(tokens <= MOST_SPLIT_TOKENS, chunks, tir.constant(1, "int64")))
        tir.when(many > 1, lambda: _split(step, chunks), lambda: _together(step))
    return tir.Kernel(name, builder.get())
