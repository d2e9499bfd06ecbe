"""The second computation of the weights: exact where it must be, independent of the first, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from rank_weights import make_build, write_files
from safetensors.numpy import save_file
from tiny_models import FIRST_BAICHUAN

from vamc_compiler.parameters import Origin, ParameterSpec, TensorRows, from_tensor
from vamc_compiler.sharding import Piece, shard_evenly
from vamc_compiler.transforms import AS_STORED, QUANT, UNIT_ROWS, Int8Rows, Transform
from vamc_compiler.verify import expected_weights
from vamc_compiler.verify.source_rows import SourceRows
from vamc_compiler.verify.stored_weights import as_floats
from vamc_compiler.weights import shards, transforms, writer
from vamc_compiler.weights.checkpoint import open_checkpoint
from vamc_runtime.errors import UserError

LAYER = "model.layers.1"


def without_norm(spec: ParameterSpec) -> ParameterSpec:
    """The parameter with its rows as they are in the checkpoint."""
    assert isinstance(spec.origin, Origin)
    others: dict[Transform, Transform] = {UNIT_ROWS: AS_STORED, Int8Rows(UNIT_ROWS): Int8Rows()}
    transform = others.get(spec.origin.transform, spec.origin.transform)
    return replace(spec, origin=replace(spec.origin, transform=transform))


@pytest.mark.parametrize("precision", ["fp16", "bf16", "w8a8_dynamic with head"])
def test_a_head_that_is_not_normalised(tmp_path: Path, precision: str) -> None:
    build = make_build(tmp_path, "baichuan 7B", 2, precision)
    wrong = [[without_norm(s) if isinstance(s.origin, Origin) else s for s in specs] for specs in build.ranks]
    write_files(build.folder, wrong, build.checkpoint)
    problems = build.check().problems
    # Quantized numbers are those of any multiple of the row: only the scales tell.
    name = "lm_head.projection.scale_w" if "head" in precision else "lm_head.weight"
    found = [(p.parameter, p.rank, p.hint) for p in problems if not p.parameter.endswith("quant_w")]
    assert found == [(name, rank, "rows that are not normalised") for rank in range(2)]


@pytest.mark.parametrize(("precision", "units"), [("fp16", 1), ("fp16", 2), ("bf16", 1), ("bf16", -1), ("bf16", -2)])
def test_a_normalised_row_may_differ_in_the_last_place_only(tmp_path: Path, precision: str, units: int) -> None:
    build = make_build(tmp_path, "baichuan 7B", 1, precision)
    (head,) = (spec for spec in build.ranks[0] if spec.name == "lm_head.weight")
    exact = expected_weights.expected_rows(head, build.checkpoint.tensors).block(0, 1).bits[0, 0]
    with build.edit(0, "lm_head.weight") as packed:
        packed.view(np.uint16)[0, 0, 0] = int(exact) + units
    assert build.check().passed == (abs(units) == 1)


def test_other_rows_must_be_exact(tmp_path: Path) -> None:
    build = make_build(tmp_path, "baichuan 7B", 1, **FIRST_BAICHUAN)  # its head is not normalised
    with build.edit(0, "lm_head.weight") as packed:
        packed.view(np.uint16)[0, 0, 0] += 1
    assert build.only_problem().num_different == 1


@pytest.mark.parametrize(("quotient", "stored", "right"), [(4.50005, 4, True), (4.50005, 5, True), (4.51, 4, False)])
def test_ties_of_normalised_rows(quotient: float, stored: int, right: bool) -> None:
    quotients = np.array([[quotient]], np.float32)
    block = expected_weights.ExpectedBlock(np.rint(quotients).astype(np.int8), quotients=quotients)
    assert block.differs_from(np.array([[stored]], np.int8)).item() == (not right)


def test_scales_of_the_ranks_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is split by columns and scaled afterwards."""
    build = make_build(tmp_path, "llama", 2, "int8_per_channel")
    take, plan, blocks, carry_out = shards._take_columns, shards.plan_tasks, shards._stored_blocks, transforms.carry_out
    columns: list[tuple[Piece, ...]] = []

    def each_rank_alone(placed: Iterable[shards.PlacedParameter], tensors: Any) -> list[shards.TransformTask]:
        ranks: dict[Path, list[shards.PlacedParameter]] = {}
        for parameter in placed:
            ranks.setdefault(parameter.path, []).append(parameter)
        return [task for rank in ranks.values() for task in plan(rank, tensors)]

    def noting_columns(task: shards.TransformTask) -> Iterator[list[npt.NDArray[Any]]]:
        columns[:] = [place.form.columns for place in task.destinations if place.form.columns is not None]
        yield from blocks(task)

    def split_first(transform: Transform, sources: list[npt.NDArray[Any]], wanted: Any) -> Any:
        return carry_out(transform, [take(rows, columns[0]) for rows in sources], wanted)

    monkeypatch.setattr(writer, "plan_tasks", each_rank_alone)
    monkeypatch.setattr(shards, "_stored_blocks", noting_columns)
    monkeypatch.setattr(shards, "carry_out", split_first)
    monkeypatch.setattr(shards, "_take_columns", lambda rows, pieces: rows)
    write_files(build.folder, build.ranks, build.checkpoint)
    problems = build.check().problems
    assert {p.hint for p in problems} == {"scaled by the rank's columns instead of the full rows"}
    assert {p.parameter.split(".", 3)[3].rpartition(".")[0] for p in problems} == {"self_attn.o_proj", "mlp.down_proj"}
    assert {p.kind for p in problems} == {"values", "scales"}


@pytest.mark.parametrize(
    ("function", "wrong"),
    [
        ("row_scales", lambda rows: (np.abs(rows).max(axis=1) / np.float32(128)).astype(np.float32)),
        ("quantize_rows", lambda rows, scales: np.trunc(rows / scales[:, None]).astype(np.int8)),
        ("to_bfloat16", lambda rows: (np.ascontiguousarray(rows).view(np.uint32) >> 16).astype(np.uint16)),
        ("normalize_rows", lambda rows: rows / np.linalg.norm(rows)),
        ("_take_columns", lambda rows, pieces: rows[:, : sum(piece.length for piece in pieces)]),
    ],
)
def test_mistakes_of_the_writer_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, wrong: object
) -> None:
    """The check shares no arithmetic with the half that writes."""
    precision = "bf16" if function == "to_bfloat16" else "int8_per_channel"
    build = make_build(tmp_path, "baichuan 7B", 2, precision, torch.float32)
    assert build.check().passed
    monkeypatch.setattr(shards if hasattr(shards, function) else transforms, function, wrong)
    write_files(build.folder, build.ranks, build.checkpoint)
    assert not build.check().passed


def test_a_checkpoint_that_was_cut_off_meanwhile(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 1)
    path = build.checkpoint.directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        build.check()


def test_another_checkpoint(tmp_path: Path) -> None:
    build = make_build(tmp_path / "one", "llama", 1)
    other = make_build(tmp_path / "other", "baichuan 7B", 1)
    build.checkpoint = other.checkpoint
    with pytest.raises(UserError, match=r"q_proj\.weight is missing"):
        build.check()


def test_memory_is_bounded_by_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No array of the comparison is as large as the tensor."""
    monkeypatch.setattr(expected_weights, "BLOCK_BYTES", 4 * 24 * 16)
    specs = [ParameterSpec("w.weight", (300, 24), "float16", from_tensor("model.layers.0.mlp.gate_proj.weight"))]
    build = make_build(tmp_path, "llama", 1, intermediate_size=300)
    other = write_files(tmp_path / "other", [specs], build.checkpoint)
    sizes: list[int] = []
    real = SourceRows.read

    def noting(self: SourceRows, places: Any) -> Any:
        sizes.append(len(places))
        return real(self, places)

    monkeypatch.setattr(SourceRows, "read", noting)
    progress: list[int] = []
    assert other.check(lambda done, total: progress.append(done)).passed
    assert sizes == [16] * 18 + [12]
    assert progress == [24 * 16 * i for i in range(1, 19)] + [300 * 24]


def test_evenly_split_columns_reassemble(tmp_path: Path) -> None:
    """A row-parallel layer over five ranks, the last one padded."""
    build = make_build(tmp_path, "llama", 1)
    name = f"{LAYER}.mlp.down_proj.weight"
    ranks = []
    for rank in range(5):
        shard = shard_evenly(1, 20, rank, 3) if rank < 3 else shard_evenly(1, 20, 2, 3)
        ranks.append([ParameterSpec(name, (24, 7), "float16", from_tensor(name, shard))])
    assert write_files(tmp_path / "other", ranks, build.checkpoint).check().passed


def test_every_float16_is_widened_and_rounded_as_numpy_does() -> None:
    """Torch does it in verification; numpy, which the writer uses, says what is right."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        expected = patterns.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(as_floats(patterns, "float16"), expected)
    frozen = patterns.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(as_floats(frozen, "float16"), expected)
    # Every bfloat16 there is, and numbers on and around the ties between float16 numbers.
    wide = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    finite = np.sort(expected[np.isfinite(expected)])
    ties = (finite[1:] + finite[:-1]) / 2
    every: list[Any] = [wide[~np.isnan(wide)], ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)]
    for values in every:
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16).view(np.uint16)
        np.testing.assert_array_equal(expected_weights._round(values[None], "float16")[0], rounded)


@pytest.mark.parametrize("size", [1e-45, 2.6e-43, 1e-40, 1e-31, 1e-28, 1.0, 3e38])
def test_rows_of_every_size_quantize_within_127(size: float, tmp_path: Path) -> None:
    """The scale of denormal rows is so coarse that a quotient may be 190."""
    values = (np.linspace(-1, 1, 33, dtype=np.float64) * size).astype(np.float32)
    save_file({"w": values[None]}, tmp_path / "model.safetensors")
    origin = Origin(((TensorRows("w"),),), None, Int8Rows(), QUANT)
    spec = ParameterSpec("w", values[None].shape, "int8", origin)
    block = expected_weights.expected_rows(spec, open_checkpoint(tmp_path).tensors).block(0, 1)
    scales = transforms.row_scales(values[None])
    np.testing.assert_array_equal(block.bits, transforms.quantize_rows(values[None], scales))
