"""Bisection: from a pair that differs to the smallest subgraph that does, written so that it can be run alone.

The comparison has found the stage and the block already. Within the block, fed with what is right, the first value that
is wrong is made by the few nodes between it and the values before it. They are written as a model of their own, with
their weights, their inputs as the faulty stage had them, and both stages' results.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from vamc_compiler.graph import make_rank_graph, parse_model
from vamc_compiler.precision import FLOAT32, multiplies_in_bfloat16
from vamc_compiler.verify.blocks import TapError, first_wrong, wrong_ranks
from vamc_compiler.verify.compare import Inside, find_within
from vamc_compiler.verify.graph_stage import STEP_INPUTS
from vamc_compiler.verify.merged_graph import merge_ranks, rank_name
from vamc_compiler.verify.metrics import token_errors
from vamc_compiler.verify.parameters import RankParameters
from vamc_compiler.verify.reproduce import (
    CASE_FILE,
    EXPECTED_FILE,
    FOUND_FILE,
    INPUTS_FILE,
    MODEL_FILE,
    SCRIPT,
    SCRIPT_FILE,
)
from vamc_compiler.verify.result import FLOAT32_STAGE, BlockError, Location
from vamc_compiler.verify.run import Array, TapValue
from vamc_compiler.verify.steps import plan_steps
from vamc_compiler.verify.subgraph import feed_streams, make_model, nodes_between, outside_values
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.taps import LOGITS, plan_taps
from vamc_compiler.verify.verification import Failure
from vamc_runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Case:
    """A subgraph that was written."""

    folder: Path
    location: Location
    nodes: tuple[str, ...]
    """Operations of the subgraph."""
    error: float
    """Relative error of the wrong value, largest over tokens."""
    limit: float


def bisect(failure: Failure, subject: Subject, folder: Path) -> Case | None:
    """Narrow a failure down and write the subgraph to `folder`; None where no block has an error of its own.

    Raises:
        UserError: the folder cannot be written.
    """
    wrong = _wrong_block(failure)
    if wrong is None:
        return None
    limit = failure.block_limit
    seen, error, location = find_within(failure.runner, failure.before, failure.after, wrong, limit)
    if error is None:
        return None
    ranks = wrong_ranks(error, limit.worst)
    writer = _CaseWriter(failure, subject, error, ranks[0] if ranks else 0, seen)
    nodes = _published(writer, folder, location)
    return Case(folder=folder, location=location, nodes=nodes, error=error.worst, limit=limit.worst)


def _wrong_block(failure: Failure) -> BlockError | None:
    measured = [block for block in failure.result.blocks if block.isolated is not None]
    found = first_wrong(measured, failure.block_limit)
    return found or max(measured, key=lambda block: block.isolated or 0.0, default=None)


def _published(writer: _CaseWriter, folder: Path, location: Location) -> tuple[str, ...]:
    """Write beside the place, then move: a case is whole or absent."""
    building = folder.with_name(f".{folder.name}.building")
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        nodes = writer.write(building, location)
        if folder.exists():
            if not (folder / CASE_FILE).is_file():
                raise UserError(f"{folder} exists and is not from a bisection", fix="move it away")
            shutil.rmtree(folder)
        building.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}", fix="run it where you may write") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return nodes


class _CaseWriter:
    """Cuts out and writes one subgraph."""

    def __init__(self, failure: Failure, subject: Subject, error: TapError, rank: int, seen: Inside) -> None:
        self._failure, self._subject, self._error, self._rank = failure, subject, error, rank
        self._expected, self._found, self._sequence = seen.expected, seen.found, seen.sequence
        # What was exported is looked at in the exported graph; everything else in the one that is compiled.
        exported = failure.after.name.startswith("exported")
        self._is_float32 = failure.after.name == FLOAT32_STAGE
        graphs = [make_rank_graph(subject.source, 1, FLOAT32, 0)] if self._is_float32 else subject.graphs
        models = [parse_model(graph.traced if exported else graph.simplified) for graph in graphs]
        self._plan = plan_taps(models[0], [graph.parameters for graph in graphs])
        self._graph = merge_ranks(models, STEP_INPUTS)
        self._parameters = [RankParameters(subject.checkpoint, graph.parameters, 0) for graph in graphs]

    def write(self, folder: Path, location: Location) -> tuple[str, ...]:
        """All files of the case; returns the operations of the subgraph."""
        target = self._target()
        known = self._known_values()
        nodes = nodes_between(feed_streams(self._graph, known, target), known.keys(), target)
        outside = outside_values(nodes)
        rows = self._rows(nodes)
        inputs = self._inputs(outside, known, rows)
        weights = self._weights(outside)
        expected, found = self._results()
        model = make_model(self._graph, nodes, inputs, weights, target, expected[rows].shape)
        (folder / MODEL_FILE).write_bytes(model.SerializeToString())
        np.savez(folder / INPUTS_FILE, **inputs)  # type: ignore[arg-type]  # names may be those of options, says its type
        np.save(folder / EXPECTED_FILE, expected[rows])
        np.save(folder / FOUND_FILE, found[rows])
        (folder / SCRIPT_FILE).write_text(SCRIPT, encoding="utf-8")
        operations = tuple(dict.fromkeys(node.op_type for node in nodes))
        case = {
            "before": self._failure.result.before,
            "after": self._failure.result.after,
            "location": str(location),
            "operations": operations,
            "limit": self._failure.block_limit.worst,
            "compiled": self._failure.after.name.startswith("compiled"),
            "mcpu": [library.mcpu for library in self._subject.manifest.libraries],
            "bfloat16_prefill": multiplies_in_bfloat16(self._subject.config),
        }
        (folder / CASE_FILE).write_text(json.dumps(case, indent=1) + "\n", encoding="utf-8")
        return operations

    def _target(self) -> str:
        name = LOGITS if self._error.tap == LOGITS else self._plan.taps[self._error.tap].value
        return rank_name(self._rank, name)

    def _known_values(self) -> dict[str, Array]:
        """Every value that the faulty stage gave, by its name in the merged graph."""
        ranks = range(len(self._parameters))
        known = {}
        for name, value in self._found.taps.items():
            if name == self._error.tap:
                continue
            tap = self._plan.taps[name]
            # A forced stream is known as it was fed, not as it arrived.
            given = self._expected.taps[name] if tap.stream and name in self._expected.taps else value
            for rank in ranks:
                known[rank_name(rank, tap.value)] = self._part(given, rank, name)
        return known

    def _part(self, value: TapValue, rank: int, name: str) -> Array:
        columns = self._plan.taps[name].columns
        if columns is None:
            return value.whole()
        if len(value.parts) == len(columns):
            return value.parts[rank]
        whole = value.whole()
        return np.concatenate(
            [
                np.zeros((len(whole), piece.length), np.float32)
                if piece.start is None
                else whole[:, piece.start : piece.start + piece.length]
                for piece in columns[rank]
            ],
            axis=1,
        )

    def _results(self) -> tuple[Array, Array]:
        """The wrong value as both stages computed it, on the chosen rank."""
        name = self._error.tap
        if name == LOGITS:
            return self._expected.logits, self._found.logits
        return (
            self._part(self._expected.taps[name], self._rank, name),
            self._part(self._found.taps[name], self._rank, name),
        )

    def _rows(self, nodes: Sequence[onnx.NodeProto]) -> slice:
        """The worst token alone; where tokens see one another, all up to it."""
        expected, found = self._results()
        worst = int(token_errors(found - expected, expected).argmax())
        attends = any("kv_cache" in name for node in nodes for name in node.input)
        return slice(0 if attends else worst, worst + 1)

    def _inputs(self, outside: Sequence[str], known: dict[str, Array], rows: slice) -> dict[str, Array]:
        page_tokens = self._subject.manifest.kv_cache.page_tokens
        step = plan_steps(self._sequence, [len(self._sequence)], page_tokens)[0]
        chosen = {name: array[rows] for name, array in step._asdict().items()}
        chosen["page_table"] = step.page_table
        chosen["logits_index"] = np.arange(rows.stop - rows.start, dtype=np.int32)
        kv = self._subject.manifest.kv_cache
        num_heads = self._subject.source.config.num_key_value_heads if self._is_float32 else kv.num_heads
        dtype = np.dtype(np.float32 if self._is_float32 else np.float16)
        pages = np.zeros((step.page_table.size, 2, num_heads, kv.page_tokens, kv.head_dim), dtype)
        inputs = {}
        for name in outside:
            if name in known:
                inputs[name] = known[name][rows]
            elif name in chosen:
                inputs[name] = chosen[name]
            elif ":kv_cache_" in name:
                inputs[name] = pages
        return inputs

    def _weights(self, outside: Sequence[str]) -> dict[str, onnx.TensorProto]:
        weights = {}
        for rank, parameters in enumerate(self._parameters):
            for name, spec in parameters.specs.items():
                if (merged := rank_name(rank, name)) in outside:
                    tensor = onnx.numpy_helper.from_array(parameters[name], merged)
                    if spec.dtype == "bfloat16":
                        tensor.data_type = onnx.TensorProto.BFLOAT16
                    weights[merged] = tensor
        return weights
