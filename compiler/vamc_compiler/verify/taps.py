"""Where a graph is tapped: names that mean the same value in every stage.

A tap is named by a module of the model, `<module path>.in` or `<module path>.out`, as the checkpoint names its tensors;
so the original, the modeling files, the ONNX files and the compiled code know the same taps. The residual stream is
tapped where a norm reads it: `<norm>.in` is the stream after everything before it was added.

Under tensor parallelism a tap is whole on every rank or, next to a split layer, in parts: `columns` says which of the
whole's columns each rank holds, from the layer's shard rule. The sum of a row-parallel layer is whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from vamc_compiler.ops import DOMAIN, OPS
from vamc_compiler.parameters import Origin, ParameterSpec
from vamc_compiler.sharding import Piece, Shard
from vamc_compiler.verify.instrument import WeightReader

Columns = tuple[tuple[Piece, ...], ...]
"""For every rank, the columns of the whole that it holds."""
LOGITS = "logits"
NORMS = ("RMSNorm", "AddRMSNorm")


@dataclass(frozen=True, kw_only=True)
class Tap:
    """One tapped value."""

    name: str
    op: str
    """The operation that made it, for people: `PagedAttention model.layers.0.self_attn`."""
    block: int
    """Index of the residual block it lies in."""
    stream: bool
    """Whether it is the residual stream."""
    value: str
    """Name of the value in the graph."""
    columns: Columns | None
    """None where every rank holds the whole."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What is added to the residual stream between two norms, or the head after the last."""

    index: int
    name: str
    """For people: `layer 3 attention`."""
    begin: str
    """Tap of the stream that goes in; empty for the embedding."""
    end: str
    """Tap of the stream that comes out; `logits` for the head."""


@dataclass(frozen=True, kw_only=True)
class TapPlan:
    """Every tap of a graph, in the order of computation."""

    taps: Mapping[str, Tap]
    blocks: tuple[Block, ...]
    attention: Mapping[int, str]
    """Tap of the attention of each layer, by the index of its cache."""
    logit_columns: Columns | None
    """Which logits each rank's head computes; None where every rank computes all."""
    readers: Mapping[str, WeightReader]
    """What reads each weight, by parameter."""

    def for_one_rank(self) -> TapPlan:
        """The same taps of the model on one rank, where every value is whole."""
        return replace(
            self,
            taps={name: replace(tap, columns=None) for name, tap in self.taps.items()},
            logit_columns=None,
            readers={name: replace(reader, summed=False) for name, reader in self.readers.items()},
        )

    @property
    def sums(self) -> frozenset[str]:
        """The taps that are sums over ranks, of row-parallel layers."""
        return frozenset(f"{reader.path}.out" for reader in self.readers.values() if reader.summed)

    @property
    def streams(self) -> tuple[str, ...]:
        """The taps of the residual stream."""
        return tuple(tap.name for tap in self.taps.values() if tap.stream)

    def inside(self, block: int) -> tuple[str, ...]:
        """The taps within a block, in order; the stream at its end is the last."""
        return tuple(tap.name for tap in self.taps.values() if tap.block == block)


def module_path(parameter: str) -> str:
    """The module that a parameter belongs to, as the checkpoint names it (a quantized head is a module of its own)."""
    return parameter.rpartition(".")[0].removesuffix(".projection")


def _shard(spec: ParameterSpec) -> Shard | None:
    shard = spec.origin.shard if isinstance(spec.origin, Origin) else None
    return shard if shard is not None and shard.is_part else None


class _Graph:
    """Look-ups in a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def nearest_op(self, value: str) -> onnx.NodeProto | None:
        """The `vamc` node that a value comes from, through reshapes and the like; None for inputs."""
        node = self.producer.get(value)
        while node is not None and node.domain != DOMAIN:
            node = self.producer.get(node.input[0]) if node.input else None
        return node

    def summed(self, value: str) -> str:
        """The sum over ranks of a row-parallel layer's output; the output itself where nothing sums it."""
        for reader in self.readers.get(value, ()):
            if reader.domain == DOMAIN and reader.op_type == "AllReduce":
                return str(reader.output[0])
        return value


class _Planner:
    """Walks a graph once and collects its taps."""

    def __init__(self, model: onnx.ModelProto, ranks: Sequence[Sequence[ParameterSpec]]) -> None:
        self.graph = _Graph(model)
        self.by_rank = [{spec.name: spec for spec in rank} for rank in ranks]
        self.specs = self.by_rank[0]
        self.taps: dict[str, Tap] = {}
        self.blocks: list[Block] = []
        self.attention: dict[int, str] = {}
        self.readers: dict[str, WeightReader] = {}
        self.logit_columns: Columns | None = None
        self.cache_index = {
            name: index
            for index, name in enumerate(v.name for v in model.graph.input if v.name.startswith("kv_cache_"))
        }
        self.members: list[onnx.NodeProto] = []

    def columns(self, weight: str, dim: int) -> Columns | None:
        """Every rank's pieces of a layer's outputs (0) or inputs (1)."""
        shards = [_shard(specs[weight]) for specs in self.by_rank]
        if any(shard is None or shard.dim != dim for shard in shards):
            return None
        return tuple(shard.pieces for shard in shards if shard is not None)

    def add(self, name: str, op: str, value: str, *, columns: Columns | None = None, stream: bool = False) -> None:
        self.taps[name] = Tap(name=name, op=op, block=len(self.blocks), stream=stream, value=value, columns=columns)

    def norm(self, node: onnx.NodeProto) -> None:
        weight = self.weight_of(node)
        path = module_path(weight)
        self.readers[weight] = WeightReader(kind="norm", path=path, width=self.specs[weight].shape[0])
        added = node.op_type == "AddRMSNorm"
        name = f"{path}.in"
        self.add(name, "residual stream", node.output[0] if added else node.input[0], stream=True)
        begin = self.blocks[-1].end if self.blocks else ""
        self.blocks.append(Block(index=len(self.blocks), name=self.block_name(), begin=begin, end=name))
        self.members = []
        self.add(f"{path}.out", f"{node.op_type} {path}", node.output[-1])

    def weight_of(self, node: onnx.NodeProto) -> str:
        return str(next(name for name in node.input if name in self.specs))

    def linear(self, node: onnx.NodeProto, weight: str) -> None:
        path, x = module_path(weight), node.input[0]
        source = self.graph.nearest_op(x)
        if source is not None and source.op_type not in (*NORMS, "Embedding"):
            kind = f"{source.op_type} {path.rpartition('.')[0]}"
            self.add(f"{path}.in", kind, x, columns=self.columns(weight, 1))
            if source.op_type == "PagedAttention":
                cache = next(name for name in source.input if name in self.cache_index)
                self.attention[self.cache_index[cache]] = f"{path}.in"
        total = self.graph.summed(node.output[0])
        self.readers[weight] = WeightReader(
            kind="linear", path=path, width=self.specs[weight].shape[1], summed=total != node.output[0]
        )
        self.add(f"{path}.out", f"{node.op_type} {path}", total, columns=self.columns(weight, 0))

    def block_name(self) -> str:
        """What the nodes since the last norm are, for people."""
        layers = [re.search(r"\.(\d+)\.", name) for node in self.members for name in node.input if name in self.specs]
        number = next((match.group(1) for match in layers if match), None)
        if number is None:
            return "embedding" if not self.blocks else "head"
        attends = any(node.op_type == "PagedAttention" for node in self.members)
        return f"layer {number} {'attention' if attends else 'feed-forward'}"

    def walk(self) -> TapPlan:
        head = ""
        for node in self.graph.nodes:
            if node.domain != DOMAIN:
                continue
            if node.op_type in NORMS:
                self.norm(node)
                continue
            self.members.append(node)
            position = OPS[node.op_type].weight_input
            if position is not None:
                head = node.input[position]
                self.linear(node, head)
            elif node.op_type == "Embedding":
                table = self.weight_of(node)
                path = module_path(table)
                self.readers[table] = WeightReader(kind="embedding", path=path, width=self.specs[table].shape[1])
                self.add(f"{path}.out", f"Embedding {path}", node.output[0])
        if head:
            self.logit_columns = self.columns(head, 0)
            self.taps.pop(f"{module_path(head)}.out")  # the logits themselves are compared
        self.blocks.append(
            Block(index=len(self.blocks), name="head", begin=self.blocks[-1].end if self.blocks else "", end=LOGITS)
        )
        return TapPlan(
            taps=self.taps,
            blocks=tuple(self.blocks),
            attention=self.attention,
            logit_columns=self.logit_columns,
            readers=self.readers,
        )


def plan_taps(model: onnx.ModelProto, ranks: Sequence[Sequence[ParameterSpec]]) -> TapPlan:
    """The taps of a graph, traced or simplified.

    Args:
        model: rank 0's graph; every rank's is the same.
        ranks: every rank's parameters, whose shard rules say which columns each holds.
    """
    return _Planner(model, ranks).walk()
