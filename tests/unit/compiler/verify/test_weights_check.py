"""What the writer writes passes; each thing that is broken on purpose is found, named and explained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_weights import PRECISIONS, Build, make_build, num_elements, write_files
from tiny_models import FAMILIES

from vamc_compiler.parameters import Origin
from vamc_compiler.sharding import Piece, Shard
from vamc_compiler.verify import expected_weights
from vamc_compiler.verify.weights import ALL_RANKS, NOWHERE

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


def test_a_rule_that_does_not_give_the_shape(tmp_path: Path) -> None:
    build = make_build(tmp_path, "llama", 1)
    head = next(spec for spec in build.ranks[0] if spec.name == "lm_head.weight")
    assert isinstance(head.origin, Origin)
    short = replace(head, origin=replace(head.origin, shard=Shard(0, 50, (Piece(0, 49),))))
    build.ranks = [[short if spec.name == head.name else spec for spec in build.ranks[0]]]
    shape, coverage = sorted(build.check().problems, key=lambda p: p.kind, reverse=True)
    assert (shape.kind, shape.hint) == ("shape", "[50, 24], but its origin gives [49, 24]")
    assert coverage.hint == "rows 49..49 of lm_head.weight are on no rank"
