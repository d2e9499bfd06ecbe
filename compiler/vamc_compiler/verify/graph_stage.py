"""ONNX graphs in onnxruntime: all ranks merged into one graph, run a segment at a time.

A segment is a run of nodes whose weights fit into memory together; each is loaded, run for every step of the sequence
and dropped. Segment by segment and not step by step: a layer's keys and values come from that layer alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from vamc_compiler.ops import DOMAIN
from vamc_compiler.verify.merged_graph import merge_ranks, rank_name
from vamc_compiler.verify.parameters import RankParameters
from vamc_compiler.verify.run import Array, Run, TapCollector, TapValue, step_rows
from vamc_compiler.verify.taps import NORMS, TapPlan
from vamc_runtime.executor import StepArguments

STEP_INPUTS = StepArguments._fields
LOGITS_OUTPUT = "logits"
_ARRIVED, _FORCED = ":arrived", ":forced"


@dataclass(frozen=True)
class _Segment:
    """Nodes that run together."""

    nodes: tuple[onnx.NodeProto, ...]
    weights: tuple[tuple[int, str], ...]
    """Rank and parameter."""
    inputs: tuple[str, ...]
    """Values from outside, weights left out."""
    outputs: tuple[str, ...]
    """Values that later segments or the caller need."""


class GraphStage:
    """A traced or simplified graph in onnxruntime.

    Args:
        name: for people.
        models: every rank's graph; weights are inputs.
        parameters: every rank's weights.
        plan: the taps of rank 0's graph.
        segment_bytes: weights that may be in memory at once.
        cache_shape: shape of a rank's cache pages of one layer without the first dimension.
        num_threads: of onnxruntime.
    """

    def __init__(
        self,
        name: str,
        models: Sequence[onnx.ModelProto],
        parameters: Sequence[RankParameters],
        plan: TapPlan,
        *,
        segment_bytes: int,
        cache_shape: tuple[int, ...],
        num_threads: int,
    ) -> None:
        self.name = name
        self._parameters = parameters
        self._plan = plan
        self._segment_bytes = segment_bytes
        self._cache_shape = cache_shape
        self._num_threads = num_threads
        self._merged = merge_ranks(models, STEP_INPUTS)
        self._by_name = {
            rank_name(rank, name): (rank, name) for rank, own in enumerate(parameters) for name in own.specs
        }
        self._caches = [v.name for v in self._merged.graph.input if ":kv_cache_" in v.name]
        self._updated = {name: name.replace(":kv_cache_", ":kv_updated_") for name in self._caches}
        self._types = {v.name: v.type.tensor_type.elem_type for v in self._merged.graph.input}
        self._initializers = {tensor.name: tensor for tensor in self._merged.graph.initializer}

    def run(
        self, steps: Sequence[StepArguments], taps: Collection[str] = (), forced: Mapping[str, Array] | None = None
    ) -> Run:
        """See `Stage.run`."""
        forced = forced or {}
        wanted = {name: self._values(name, name in forced) for name in taps if name in self._plan.taps}
        logits = rank_name(0, LOGITS_OUTPUT)
        outputs = {logits, *self._updated.values(), *(value for values in wanted.values() for value in values)}
        collector = TapCollector()
        live = [self._step_values(step, forced) for step in steps]
        caches = self._empty_caches(steps)
        for segment, last_use in self._segments(self._nodes(forced), outputs):
            session = open_session(self._segment_model(segment, live[0] | caches), self._num_threads)
            weights = {rank_name(rank, name): self._value(rank, name) for rank, name in segment.weights}
            for values in live:
                feeds = weights | {
                    name: onnxruntime.OrtValue.ortvalue_from_numpy(caches.get(name, values.get(name)))
                    for name in segment.inputs
                }
                computed = session.run_with_ort_values(list(segment.outputs), feeds)
                for name, result in zip(segment.outputs, computed, strict=True):
                    array = result.numpy()
                    if name in outputs:
                        self._keep(name, array, collector, caches)
                    if name not in self._updated.values():
                        values[name] = array
                for name in last_use:
                    values.pop(name, None)
            del session, weights, feeds, computed  # before the next segment's are read
        joined = collector.joined()
        found = {
            name: TapValue(tuple(joined[value] for value in values), self._plan.taps[name].columns)
            for name, values in wanted.items()
        }
        return Run(joined[logits], found, self._plan.logit_columns)

    def _values(self, tap: str, is_forced: bool) -> list[str]:
        """The values of a tap: every rank's, or one for all."""
        entry = self._plan.taps[tap]
        ranks = range(len(self._parameters)) if entry.columns is not None else range(1)
        return [rank_name(rank, entry.value) + _ARRIVED * is_forced for rank in ranks]

    def _keep(self, name: str, array: Array, collector: TapCollector, caches: dict[str, Array]) -> None:
        cache = name.replace(":kv_updated_", ":kv_cache_")
        if cache in caches:
            caches[cache] = array
        else:
            collector.add(name, array)

    def _step_values(self, step: StepArguments, forced: Mapping[str, Array]) -> dict[str, Array]:
        values: dict[str, Array] = dict(step._asdict())
        for tap, array in forced.items():
            values[tap + _FORCED] = np.ascontiguousarray(step_rows(array, step), np.float32)
        return values

    def _empty_caches(self, steps: Sequence[StepArguments]) -> dict[str, Array]:
        # float16 or float32, as the graph was traced
        shape = (steps[0].page_table.size, *self._cache_shape)
        return {name: np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(self._types[name])) for name in self._caches}

    def _nodes(self, forced: Mapping[str, Array]) -> Iterator[onnx.NodeProto]:
        """The merged graph's nodes; norms whose stream is forced read the given one, and what had arrived is kept."""
        by_value = {
            rank_name(rank, self._plan.taps[tap].value): (tap, rank)
            for tap in forced
            for rank in range(len(self._parameters))
        }
        replaced: dict[str, str] = {}  # the first stream is read by its norm and by the next one's addition
        for original in self._merged.graph.node:
            node, found = _reading(original, replaced), None
            if node.domain == DOMAIN and node.op_type in NORMS:
                found = by_value.get(node.input[0] if node.op_type == "RMSNorm" else node.output[0])
            if found is None:
                yield node
                continue
            tap, rank = found
            arrived = rank_name(rank, self._plan.taps[tap].value) + _ARRIVED
            changed = onnx.NodeProto()
            changed.CopyFrom(node)
            changed.input[0] = tap + _FORCED
            if node.op_type == "RMSNorm":
                yield onnx.helper.make_node("Identity", [node.input[0]], [arrived])
                replaced[node.input[0]] = tap + _FORCED
            else:
                zeros = arrived + ":zeros"
                yield onnx.helper.make_node("Add", list(node.input[:2]), [arrived])
                yield onnx.helper.make_node("Sub", [tap + _FORCED] * 2, [zeros])
                changed.input[1] = zeros
            yield changed

    def _segments(
        self, nodes: Iterator[onnx.NodeProto], outputs: set[str]
    ) -> Iterator[tuple[_Segment, frozenset[str]]]:
        """The nodes cut where the weights would outgrow memory, each with the values that nobody reads any more."""
        groups: list[list[onnx.NodeProto]] = [[]]
        held: set[str] = set()
        for node in nodes:
            new = {name for name in node.input if name in self._by_name} - held
            if held and self._num_bytes(held | new) > self._segment_bytes:
                groups.append([])
                held, new = set(), {name for name in node.input if name in self._by_name}
            held |= new
            groups[-1].append(node)
        reads = [{name for node in group for name in node.input if name} for group in groups]
        made = [{name for node in group for name in node.output if name} for group in groups]
        for index, group in enumerate(groups):
            later: set[str] = set().union(*reads[index + 1 :])
            outside = reads[index] - made[index] - self._initializers.keys()
            weights = sorted(name for name in outside if name in self._by_name)
            segment = _Segment(
                tuple(group),
                tuple(self._by_name[name] for name in weights),
                tuple(sorted(outside - set(weights))),
                tuple(sorted(made[index] & (later | outputs))),
            )
            yield segment, frozenset((outside | made[index]) - later)

    def _num_bytes(self, names: set[str]) -> int:
        total = 0
        for name in names:
            rank, parameter = self._by_name[name]
            spec = self._parameters[rank].specs[parameter]
            # onnxruntime converts 16-bit and int8 weights to float32 when a node runs
            total += int(np.prod(spec.shape)) * 4
        return total

    def _value(self, rank: int, name: str) -> Any:
        array = self._parameters[rank][name]
        if self._parameters[rank].specs[name].dtype == "bfloat16":
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, onnx.TensorProto.BFLOAT16)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    def _segment_model(self, segment: _Segment, values: Mapping[str, Array]) -> onnx.ModelProto:
        """A model of its own, its inputs typed as the values they get; sizes are left open."""
        graph = onnx.GraphProto(name="segment")
        graph.node.extend(segment.nodes)
        read = {name for node in segment.nodes for name in node.input}
        graph.initializer.extend(self._initializers[name] for name in sorted(read & self._initializers.keys()))
        for name in segment.inputs:
            element = onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(name, element, None))
        for rank, name in segment.weights:
            merged = rank_name(rank, name)
            graph.input.append(onnx.helper.make_tensor_value_info(merged, self._types[merged], None))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in segment.outputs)
        model = onnx.ModelProto(ir_version=self._merged.ir_version, graph=graph)
        model.opset_import.extend(self._merged.opset_import)
        model.functions.extend(self._merged.functions)
        return model


def _reading(node: onnx.NodeProto, replaced: Mapping[str, str]) -> onnx.NodeProto:
    """The node with some of its inputs replaced; itself where none is."""
    if not replaced.keys() & set(node.input):
        return node
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[:] = [replaced.get(name, name) for name in node.input]
    return changed


def open_session(model: onnx.ModelProto | Path, num_threads: int) -> Any:
    """An onnxruntime session that computes the graph as it is written, without fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    # Its arena would keep twice the float32 weights, and more after each step.
    options.enable_cpu_mem_arena = False
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
