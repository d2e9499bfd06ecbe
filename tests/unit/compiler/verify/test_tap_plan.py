"""Which values of a graph are tapped, under which names, and which columns each rank has of them."""

from __future__ import annotations

import pytest
from tiny_builds import TinyBuild

from vamc_compiler.sharding import Piece
from vamc_compiler.verify.taps import LOGITS, TapPlan, module_path, plan_taps

LAYER = "model.layers.{}."
INSIDE = [
    "input_layernorm.in",
    "input_layernorm.out",
    "self_attn.q_proj.out",
    "self_attn.k_proj.out",
    "self_attn.v_proj.out",
    "self_attn.o_proj.in",
    "self_attn.o_proj.out",
    "post_attention_layernorm.in",
    "post_attention_layernorm.out",
    "mlp.gate_proj.out",
    "mlp.up_proj.out",
    "mlp.down_proj.in",
    "mlp.down_proj.out",
]


def test_taps_in_the_order_of_computation(one_rank: TinyBuild) -> None:
    layers = [LAYER.format(layer) + name for layer in range(2) for name in INSIDE]
    assert list(one_rank.plan.taps) == ["model.embed_tokens.out", *layers, "model.norm.in", "model.norm.out"]
    assert list(one_rank.plan.streams) == [name for name in one_rank.plan.taps if name.endswith("norm.in")]


def test_blocks_follow_one_another(one_rank: TinyBuild) -> None:
    blocks = one_rank.plan.blocks
    assert [block.name for block in blocks] == [
        "embedding",
        "layer 0 attention",
        "layer 0 feed-forward",
        "layer 1 attention",
        "layer 1 feed-forward",
        "head",
    ]
    assert [block.index for block in blocks] == list(range(6))
    assert [block.end for block in blocks] == [*one_rank.plan.streams, LOGITS]
    assert [block.begin for block in blocks] == ["", *one_rank.plan.streams]
    first = LAYER.format(0)
    assert one_rank.plan.inside(0) == ("model.embed_tokens.out", first + "input_layernorm.in")
    assert one_rank.plan.inside(2) == (*(first + name for name in INSIDE[8:]), blocks[2].end)
    assert one_rank.plan.inside(5) == ("model.norm.out",)


def test_operations_for_people(one_rank: TinyBuild) -> None:
    path = LAYER.format(1)
    assert {name.removeprefix(path): one_rank.plan.taps[name].op for name in one_rank.plan.inside(3)} == {
        "input_layernorm.out": f"AddRMSNorm {path}input_layernorm",
        "self_attn.q_proj.out": f"Linear {path}self_attn.q_proj",
        "self_attn.k_proj.out": f"Linear {path}self_attn.k_proj",
        "self_attn.v_proj.out": f"Linear {path}self_attn.v_proj",
        "self_attn.o_proj.in": f"PagedAttention {path}self_attn",
        "self_attn.o_proj.out": f"Linear {path}self_attn.o_proj",
        "post_attention_layernorm.in": "residual stream",
    }
    assert one_rank.plan.taps[f"{path}mlp.down_proj.in"].op == f"SiluMul {path}mlp"
    assert one_rank.plan.attention == {layer: LAYER.format(layer) + "self_attn.o_proj.in" for layer in range(2)}


@pytest.mark.parametrize("build", ["one_rank", "two_ranks", "four_ranks"])
def test_both_graphs_have_the_same_taps(build: str, request: pytest.FixtureRequest) -> None:
    tiny: TinyBuild = request.getfixturevalue(build)
    simplified, traced = (plan_taps(tiny.models(traced=traced)[0], tiny.parameters) for traced in (False, True))

    def without_values(plan: TapPlan) -> list[tuple[object, ...]]:
        return [(tap.name, tap.op, tap.block, tap.stream, tap.columns) for tap in plan.taps.values()]

    assert without_values(simplified) == without_values(traced)
    assert (simplified.blocks, simplified.attention, simplified.readers, simplified.logit_columns) == (
        traced.blocks,
        traced.attention,
        traced.readers,
        traced.logit_columns,
    )


def test_one_rank_has_everything(one_rank: TinyBuild) -> None:
    assert all(tap.columns is None for tap in one_rank.plan.taps.values())
    assert one_rank.plan.logit_columns is None
    assert not one_rank.plan.sums
    assert one_rank.plan.for_one_rank() == one_rank.plan


def test_columns_of_two_ranks(two_ranks: TinyBuild, one_rank: TinyBuild) -> None:
    """Six query heads of 8 columns and two key/value heads, the odd width of a feed-forward of 20."""
    columns = {name.rpartition("layers.0.")[2]: tap.columns for name, tap in two_ranks.plan.taps.items()}
    halves = ((Piece(0, 24),), (Piece(24, 24),))
    assert columns["self_attn.q_proj.out"] == columns["self_attn.o_proj.in"] == halves
    assert columns["self_attn.k_proj.out"] == ((Piece(0, 8),), (Piece(8, 8),))
    assert columns["mlp.gate_proj.out"] == columns["mlp.down_proj.in"] == ((Piece(0, 10),), (Piece(10, 10),))
    for name in ("self_attn.o_proj.out", "mlp.down_proj.out", "input_layernorm.in", "model.norm.out"):
        assert columns[name] is None, name
    assert two_ranks.plan.logit_columns == ((Piece(0, 25),), (Piece(25, 25),))
    rows = [LAYER.format(layer) + name for layer in range(2) for name in ("self_attn.o_proj.out", "mlp.down_proj.out")]
    assert two_ranks.plan.sums == frozenset(rows)
    alone = two_ranks.plan.for_one_rank()
    assert list(alone.taps) == list(one_rank.plan.taps)
    assert all(tap.columns is None for tap in alone.taps.values())
    assert alone.logit_columns is None and not alone.sums


def test_padded_heads(four_ranks: TinyBuild) -> None:
    """Six heads of 4 columns on four ranks with two each: the last rank has none of its own."""
    columns = four_ranks.plan.taps[LAYER.format(0) + "self_attn.o_proj.in"].columns
    assert columns == ((Piece(0, 8),), (Piece(8, 8),), (Piece(16, 8),), (Piece(None, 8),))
    assert four_ranks.plan.logit_columns is not None
    assert four_ranks.plan.logit_columns[3] == (Piece(39, 11), Piece(None, 2))


def test_every_reader_of_a_weight(two_ranks: TinyBuild) -> None:
    readers = two_ranks.plan.readers
    assert readers["model.embed_tokens.weight"].kind == "embedding"
    assert readers["model.norm.weight"].kind == "norm"
    down = readers[LAYER.format(1) + "mlp.down_proj.weight"]
    assert (down.kind, down.path, down.width, down.summed) == ("linear", LAYER.format(1) + "mlp.down_proj", 10, True)
    up = readers[LAYER.format(1) + "mlp.up_proj.weight"]
    assert (up.width, up.summed) == (24, False)


@pytest.mark.parametrize(
    ("parameter", "path"),
    [
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj"),
        ("model.layers.0.mlp.up_proj.quant_w", "model.layers.0.mlp.up_proj"),
        ("lm_head.projection.quant_w", "lm_head"),
    ],
)
def test_modules_as_the_checkpoint_names_them(parameter: str, path: str) -> None:
    assert module_path(parameter) == path
