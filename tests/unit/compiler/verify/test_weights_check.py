"""What the writer writes passes; each thing that is broken on purpose is found, named and explained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_weights import PRECISIONS, Build, make_build, num_elements, write_files
from tiny_models import FAMILIES

from vamc_compiler.parameters import FromCheckpoint, FromValue, ParameterSpec
from vamc_compiler.sharding import Piece, Shard, shard_evenly
from vamc_compiler.verify import expected_weights
from vamc_compiler.verify.weights import ALL_RANKS, NOWHERE
from vamc_compiler.weights import shards
from vamc_runtime.errors import UserError

LAYER = "model.layers.1"


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_writer_writes_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, precision: str, num_ranks: int
) -> None:
    """Padded query heads (13B, 3 and 4 ranks), repeated key/value heads (llama), NormHead (both Baichuan)."""
    if num_ranks == 3:
        monkeypatch.setattr(expected_weights, "BLOCK_BYTES", 4 * 24 * 20)  # blocks of one panel
    build = make_build(tmp_path, family, num_ranks, precision)
    progress: list[tuple[int, int]] = []
    check = build.check(lambda done, total: progress.append((done, total)))
    assert check.problems == () and check.passed
    assert check.num_ranks == num_ranks
    assert check.num_parameters == len(build.ranks[0])
    assert check.num_elements == num_elements(build.ranks)
    assert {total for _, total in progress} == {check.num_elements}
    assert progress[-1] == (check.num_elements, check.num_elements)
    assert [done for done, _ in progress] == sorted({done for done, _ in progress})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", ["llama", "baichuan 13B"])
def test_tied_heads_and_other_checkpoints_pass(tmp_path: Path, family: str, precision: str, dtype: torch.dtype) -> None:
    assert make_build(tmp_path, family, 2, precision, dtype, tie_word_embeddings=True).check().passed


def mixed(build: Build, name: str) -> None:
    """Give ranks 0 and 1 each other's parameter."""
    with build.edit(0, name) as one, build.edit(1, name) as other:
        one[:], other[:] = other.copy(), one.copy()


@pytest.mark.parametrize(
    ("family", "precision", "name", "kind"),
    [
        ("llama", "fp16", f"{LAYER}.mlp.down_proj.weight", "values"),
        ("llama", "bf16", f"{LAYER}.self_attn.q_proj.weight", "values"),
        ("llama", "int8_per_channel", f"{LAYER}.self_attn.o_proj.quant_w", "values"),
        ("llama", "int8_per_channel", f"{LAYER}.mlp.up_proj.scale_w", "scales"),
        ("baichuan 13B", "fp16", "lm_head.weight", "values"),
        ("baichuan 13B", "w8a8_dynamic with head", "lm_head.projection.quant_w", "values"),
        ("baichuan 13B", "w8a8_dynamic with head", "lm_head.projection.scale_w", "scales"),
    ],
)
def test_swapped_ranks(tmp_path: Path, family: str, precision: str, name: str, kind: str) -> None:
    build = make_build(tmp_path, family, 2, precision)
    mixed(build, name)
    problems = build.check().problems
    tensor = name.replace("projection.", "").replace("quant_w", "weight").replace("scale_w", "weight")
    assert [(p.tensor, p.parameter, p.rank, p.kind, p.hint) for p in problems] == [
        (tensor, name, 0, kind, "rank 1's part"),
        (tensor, name, 1, kind, "rank 0's part"),
    ]


def test_one_rank_with_anothers_whole_file(tmp_path: Path) -> None:
    build = make_build(tmp_path, "baichuan 13B", 2, "int8_per_channel")
    build.path(1).write_bytes(build.path(0).read_bytes())
    problems = build.check().problems
    assert {p.rank for p in problems} == {1}
    assert {p.hint for p in problems} == {"rank 0's part", "rank 0's values"}
    assert {p.kind for p in problems} == {"values", "scales", "constant"}
    assert not any("norm" in p.parameter or "embed" in p.parameter for p in problems), "those are the same on all"


def test_two_ranks_with_the_same_nonsense(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 2)
    name = f"{LAYER}.mlp.gate_proj.weight"
    for rank in range(2):
        with build.edit(rank, name) as packed:
            packed[:, :24, :] = 1.5
            packed[0, :24, 10:] = 0  # 10 of 20 outputs per rank
    # The same on both, in place of two different parts.
    assert [(p.parameter, p.hint) for p in build.check().problems] == [
        (name, "the same content as rank 1's"),
        (name, "the same content as rank 0's"),
    ]


@pytest.mark.parametrize(("shift", "which"), [(1, "before"), (-1, "after")])
def test_rolled_scales(tmp_path: Path, shift: int, which: str) -> None:
    build = make_build(tmp_path, "llama", 2, "int8_per_channel")
    name = f"{LAYER}.self_attn.o_proj.scale_w"
    with build.edit(1, name) as scales:
        before = scales.copy()
        scales[:] = np.roll(before, shift)
    problem = build.only_problem()
    assert (problem.parameter, problem.rank, problem.kind) == (name, 1, "scales")
    assert problem.hint == f"scales of the neighbouring channel (the one {which})"
    assert (problem.first_row, problem.first_column, problem.num_different) == (0, 0, 24)
    assert (problem.expected, problem.found) == (float(before[0]), float(before[-shift]))


def test_one_scale_of_the_next_channel(tmp_path: Path) -> None:
    build = make_build(tmp_path, "baichuan 7B", 1, "int8_per_channel")
    name = f"{LAYER}.mlp.up_proj.scale_w"
    with build.edit(0, name) as scales:
        scales[7] = scales[8]
    problem = build.only_problem()
    assert (problem.first_row, problem.num_different) == (7, 1)
    assert problem.hint == "scales of the neighbouring channel (the one after)"


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8_per_channel"])
def test_swapped_panels(tmp_path: Path, precision: str) -> None:
    build = make_build(tmp_path, "baichuan 7B", 1, precision)
    name = f"{LAYER}.self_attn.W_pack.{'quant_w' if precision.startswith('int8') else 'weight'}"
    with build.edit(0, name) as packed:
        packed[[1, 3]] = packed[[3, 1]]
    problem = build.only_problem()
    assert (problem.tensor, problem.parameter, problem.rank) == (f"{LAYER}.self_attn.W_pack.weight", name, 0)
    assert problem.hint == "panels 1 and 3 are swapped: outputs 16..31 and 48..63"
    assert problem.first_row == 16
    assert 0.9 * 2 * 16 * 24 < problem.num_different <= 2 * 16 * 24


def test_one_panel_packed_inputs_first(tmp_path: Path) -> None:
    build = make_build(tmp_path, "baichuan 7B", 1)
    name = f"{LAYER}.self_attn.W_pack.weight"
    with build.edit(0, name) as packed:
        packed[1, :24] = packed[1, :24].copy().reshape(16, 24).T
    assert build.only_problem().hint == "panel 1 differs: outputs 16..31"


def test_one_flipped_weight(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 2, "int8_per_channel")
    name = f"{LAYER}.mlp.down_proj.quant_w"  # [24, 10]
    with build.edit(1, name) as packed:
        before = int(packed[1, 2, 4 * 3 + 1])  # output 16 + 3, input 2 * 4 + 1
        packed[1, 2, 4 * 3 + 1] = -before - 1
    problem = build.only_problem()
    assert (problem.parameter, problem.rank, problem.kind) == (name, 1, "values")
    assert (problem.first_row, problem.first_column, problem.num_different) == (19, 9, 1)
    assert (problem.expected, problem.found) == (before, -before - 1)
    assert problem.hint == "panel 1 differs: outputs 16..23"
    assert str(problem) == (
        f"{name} of rank 1: values: 1 number differs (panel 1 differs: outputs 16..23); "
        f"row 19, column 9 holds {-before - 1}, not {before}"
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", [f"{LAYER}.self_attn.o_proj.weight", "model.embed_tokens.weight"])
def test_one_bit_of_a_half(tmp_path: Path, precision: str, name: str) -> None:
    build = make_build(tmp_path, "llama", 1, precision)
    with build.edit(0, name) as stored:
        bits = stored.view(np.uint16)
        bits[tuple(0 for _ in bits.shape)] ^= 1
    problem = build.only_problem()
    assert (problem.first_row, problem.first_column, problem.num_different) == (0, 0, 1)
    assert problem.found == pytest.approx(problem.expected, rel=0.02)
    assert problem.hint == ("" if "embed" in name else "panel 0 differs: outputs 0..15")


def test_one_slope(tmp_path: Path) -> None:
    build = make_build(tmp_path, "baichuan 13B", 3)
    name = f"{LAYER}.self_attn.slopes"
    with build.edit(2, name) as slopes:
        slopes[1] *= 2
    problem = build.only_problem()
    assert (problem.tensor, problem.parameter, problem.rank, problem.kind) == ("", name, 2, "constant")
    assert (problem.first_row, problem.num_different) == (1, 1)
    assert problem.found == 2 * problem.expected


def test_slopes_of_another_rank(tmp_path: Path) -> None:
    build = make_build(tmp_path, "baichuan 13B", 2)
    mixed(build, f"{LAYER}.self_attn.slopes")
    assert [p.hint for p in build.check().problems] == ["rank 1's values", "rank 0's values"]


def test_wrong_sums(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 2, "int8_per_channel")
    name = f"{LAYER}.self_attn.q_proj.quant_w"
    with build.edit(0, name) as packed:
        sums = packed[1, -1].view(np.int32)
        before = int(sums[5])
        sums[5] += 128
    problem = build.only_problem()
    assert (problem.parameter, problem.rank, problem.kind) == (name, 0, "sums")
    assert (problem.first_row, problem.num_different) == (21, 1)
    assert (problem.expected, problem.found) == (before, before + 128)
    assert problem.hint == "panel 1 differs: outputs 16..23"


@pytest.mark.parametrize(
    ("precision", "index", "row", "column"),
    [
        ("fp16", (0, 25, 3), 3, 25),  # the lines of zeros after 24 inputs
        ("fp16", (1, 4, 8), 24, 4),  # 24 outputs in two panels
        ("bf16", (0, 12, 7), 3, 25),
        ("int8_per_channel", (1, 2, 4 * 8 + 3), 24, 11),
    ],
)
def test_padding_is_zeros(tmp_path: Path, precision: str, index: tuple[int, int, int], row: int, column: int) -> None:
    build = make_build(tmp_path, "baichuan 7B", 1, precision)
    suffix = "quant_w" if precision.startswith("int8") else "weight"
    name = f"{LAYER}.self_attn.o_proj.{suffix}"
    with build.edit(0, name) as packed:
        packed.view({1: np.int8, 2: np.uint16}[packed.itemsize])[index] = 1
    problem = build.only_problem()
    assert (problem.parameter, problem.kind, problem.expected) == (name, "padding", 0)
    assert (problem.first_row, problem.first_column, problem.num_different) == (row, column, 1)
    assert problem.found > 0


def test_padded_rows_are_zeros(tmp_path: Path) -> None:
    """Rank 2 of 3 has 16 of the 50 tokens and one row of zeros, which is a panel of its own."""
    build = make_build(tmp_path, "llama", 3)
    with build.edit(2, "lm_head.weight") as packed:
        packed[1, 6, 0] = 0.5
    problem = build.only_problem()
    assert (problem.rank, problem.kind) == (2, "values")
    assert (problem.first_row, problem.first_column, problem.expected, problem.found) == (16, 6, 0, 0.5)


def without_norm(spec: ParameterSpec) -> ParameterSpec:
    """The parameter with its rows as they are in the checkpoint."""
    assert isinstance(spec.origin, FromCheckpoint)
    steps = tuple(step for step in spec.origin.steps if step != "normalize_rows")
    return replace(spec, origin=replace(spec.origin, steps=steps))


@pytest.mark.parametrize("precision", ["fp16", "bf16", "w8a8_dynamic with head"])
def test_a_head_that_is_not_normalised(tmp_path: Path, precision: str) -> None:
    build = make_build(tmp_path, "baichuan 7B", 2, precision)
    wrong = [[without_norm(s) if isinstance(s.origin, FromCheckpoint) else s for s in specs] for specs in build.ranks]
    write_files(build.folder, wrong, build.checkpoint)
    problems = build.check().problems
    # Quantized numbers are those of any multiple of the row: only the scales tell.
    name = "lm_head.projection.scale_w" if "head" in precision else "lm_head.weight"
    found = [(p.parameter, p.rank, p.hint) for p in problems if not p.parameter.endswith("quant_w")]
    assert found == [(name, rank, "rows that are not normalised") for rank in range(2)]


@pytest.mark.parametrize("units", [1, 2, 5])
def test_a_normalised_row_may_differ_in_the_last_place_only(tmp_path: Path, units: int) -> None:
    build = make_build(tmp_path, "baichuan 7B", 1)
    with build.edit(0, "lm_head.weight") as packed:
        exact = packed[0, 0, 0]
        packed.view(np.uint16)[0, 0, 0] += units
        assert packed[0, 0, 0] != exact
    # The writer itself may be one unit away.
    assert build.check().passed == (units == 1) or units == 2


def test_scales_of_the_ranks_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is split by columns and scaled afterwards."""
    build = make_build(tmp_path, "llama", 2, "int8_per_channel")
    real = shards._process

    def split_first(rows: np.ndarray, columns: tuple[Piece, ...], task: shards.TensorTask) -> np.ndarray:
        part = shards._take_columns(rows, columns)
        return real(part, (Piece(0, part.shape[1]),), task)

    monkeypatch.setattr(shards, "_process", split_first)
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
    monkeypatch.setattr(shards, function, wrong)
    write_files(build.folder, build.ranks, build.checkpoint)
    assert not build.check().passed


def test_a_part_that_no_rank_holds(tmp_path: Path) -> None:
    """Both ranks were given the first one's rule: each is right by itself."""
    build = make_build(tmp_path, "llama", 2)
    name = f"{LAYER}.mlp.down_proj.weight"
    first = next(spec for spec in build.ranks[0] if spec.name == name)
    ranks = [build.ranks[0], [first if spec.name == name else spec for spec in build.ranks[1]]]
    problem = write_files(tmp_path / "other", ranks, build.checkpoint).only_problem()
    assert (problem.parameter, problem.rank, problem.kind) == (name, ALL_RANKS, "coverage")
    assert (problem.first_row, problem.num_different) == (NOWHERE, 10)
    assert str(problem) == f"{name}: coverage: columns 10..19 of {name} are on no rank"


def rename(path: Path, old: str, new: str) -> None:
    """Change the header without moving the data."""
    data = path.read_bytes()
    assert len(old) == len(new) and data.count(old.encode()) == 1
    path.write_bytes(data.replace(old.encode(), new.encode()))


def test_missing_tensor(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 2)
    rename(build.path(1), "model.norm.weight", "model.norm.weighs")
    problem = build.only_problem()
    assert (problem.parameter, problem.rank, problem.kind) == ("model.norm.weight", 1, "missing")
    assert math.isnan(problem.expected) and problem.first_row == NOWHERE and problem.num_different == 24
    assert str(problem) == (
        "model.norm.weight of rank 1: missing: rank_1/params.safetensors has no tensor of this name"
    )


def test_wrong_type(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 1)
    header = '"model.embed_tokens.weight":{"dtype":'
    rename(build.path(0), f'{header}"F16"', f'{header}"I16"')
    problem = build.only_problem()
    assert (problem.parameter, problem.kind, problem.hint) == ("model.embed_tokens.weight", "type", "I16, not F16")


def test_wrong_shape(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 1)
    rename(build.path(0), '"model.embed_tokens.weight":{"dtype":"F16","shape":[50,24]',
           '"model.embed_tokens.weight":{"dtype":"F16","shape":[24,50]')  # fmt: skip
    problem = build.only_problem()
    assert (problem.parameter, problem.kind) == ("model.embed_tokens.weight", "shape")
    assert problem.hint == "[24, 50], not [50, 24] or [4, 26, 16] (packed)"


def test_a_rule_that_does_not_give_the_shape(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 1)
    head = next(spec for spec in build.ranks[0] if spec.name == "lm_head.weight")
    assert isinstance(head.origin, FromCheckpoint)
    short = replace(head, origin=replace(head.origin, shard=Shard(0, 50, (Piece(0, 49),))))
    build.ranks = [[short if spec.name == head.name else spec for spec in build.ranks[0]]]
    shape, coverage = sorted(build.check().problems, key=lambda p: p.kind, reverse=True)
    assert (shape.kind, shape.hint) == ("shape", "[50, 24], but its origin gives [49, 24]")
    assert coverage.hint == "rows 49..49 of lm_head.weight are on no rank"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="gone"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"\xff" * 100), id="no header"),
        pytest.param(lambda path: path.write_bytes(b"\x02" + b"\0" * 7 + b"[]"), id="no object"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-4096]), id="cut off"),
        pytest.param(
            lambda path: rename(path, '"shape":[3],"data_offsets"', '"shape":[x],"data_offsets"'), id="no JSON"
        ),
        pytest.param(
            lambda path: rename(path, '"shape":[3],"data_offsets"', '"shape":[3],"data_offsett"'), id="no offsets"
        ),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, damage: object) -> None:
    specs = [
        ParameterSpec("slopes", (3,), "float32", FromValue(np.ones(3, np.float32))),
        ParameterSpec("big", (5000,), "float32", FromValue(np.ones(5000, np.float32))),
    ]
    build = make_build(tmp_path, "llama", 1)
    other = write_files(tmp_path / "other", [specs], build.checkpoint)
    assert other.check().passed
    damage(other.path(0))
    with pytest.raises(UserError, match=r"rank_0/params\.safetensors cannot be read") as caught:
        other.check()
    assert caught.value.fix == "copy the runstream again, or compile it again"


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
    specs = [
        ParameterSpec("w.weight", (300, 24), "float16", FromCheckpoint("model.layers.0.mlp.gate_proj.weight", None, ()))
    ]
    build = make_build(tmp_path, "llama", 1, intermediate_size=300)
    other = write_files(tmp_path / "other", [specs], build.checkpoint)
    sizes: list[int] = []
    real = expected_weights.CheckpointRows._read
    monkeypatch.setattr(
        expected_weights.CheckpointRows,
        "_read",
        lambda self, places: sizes.append(len(places)) or real(self, places),
    )
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
        ranks.append([ParameterSpec(name, (24, 7), "float16", FromCheckpoint(name, shard))])
    assert write_files(tmp_path / "other", ranks, build.checkpoint).check().passed
