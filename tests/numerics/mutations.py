"""Mistakes made on purpose, and where verification must find each: one table.

A mutation is a small patch of the real code or of the bytes it wrote, never of the checks. Code is edited as text: a
modeling file in a copy of source_code/, or a function whose code is replaced while the patch is in effect. A text that
does not occur exactly once fails the test: the table follows the code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rank_bytes import give_shard, roll_channels, swap_panels

SOURCE_CODE = "source_code/"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and how it is built."""

    model: Literal["alibi", "rotary"]
    precision: Literal["fp16", "int8"]
    num_ranks: int

    def __str__(self) -> str:
        return f"{self.model} {self.precision}, {self.num_ranks} rank{'s' * (self.num_ranks > 1)}"


@dataclass(frozen=True)
class Edit:
    """One text of the code, replaced."""

    place: str
    """`source_code/attention.py`, or a function: `vamc_compiler.ops.paged_attention:rotate`."""
    right: str
    wrong: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a pair that fails must name."""

    stage: str
    check: str = "prefill"
    block: str = ""
    op: str = ""
    ranks: tuple[int, ...] = ()
    """Those that are wrong; empty where all are, or the value is the same on all."""
    detail: str = ""
    """Part of it."""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One mistake."""

    name: str
    case: Case
    during: Literal["modeling", "modeling and trace", "trace", "library", "weights", "stale library", "files"]
    """When the edits are in effect.

    - modeling: while the modeling stages run. Where to tap them is read from the clean graph.
    - modeling and trace: before that, also while the graph is made.
    - trace: while the graph is made, and no longer.
    - library, weights: while the library is compiled or the weights are written; all else is the clean build's.
    - stale library: while a library is compiled from the edited modeling file; it then replaces the clean one.
    - files: no edits; `damage` changes the files of a finished runstream.
    """
    edits: tuple[Edit, ...] = ()
    damage: Callable[[Path], None] | None = None
    found: tuple[Found, ...]
    """The first failing pairs, in order; more may follow."""


ALIBI, ALIBI_4 = (Case(model="alibi", precision=p, num_ranks=n) for p, n in (("int8", 2), ("fp16", 4)))
ROTARY, ROTARY_2, ROTARY_4 = (Case(model="rotary", precision="fp16", num_ranks=n) for n in (1, 2, 4))
CASES = (ALIBI, ALIBI_4, ROTARY, ROTARY_2, ROTARY_4)
COMPILED = {"alibi": ALIBI, "rotary": ROTARY}
"""The case of each model that is also compiled."""

_ATTENTION = "layer 0 attention"
_PAGED = "PagedAttention model.layers.0.self_attn"
_ALIBI_FILE = "source_code/modeling_baichuan13b_vacc.py"
_EAGER_ATTENTION = "vamc_compiler.ops.paged_attention:paged_attention"
_KERNEL = "vamc_compiler.kernels.paged_attention:"
_SLOT = "slot = tir.opaque(where % LANES)"


def _moved_slot(when: str) -> str:
    """The slot of a token, one further in its page where `when` holds."""
    one, none = 'tir.constant(1, "int64")', 'tir.constant(0, "int64")'
    return f"slot = tir.opaque((where + tir.select({when}, {one}, {none})) % LANES)"


_DOWN = "self.down_proj(inner)"
_SIMPLIFY, _CHECK = "vamc_compiler.onnx_stage.simplify:simplify", "if not checked or before != after:"
_FIRST_INT8 = "QuantizedLinearPerChannel model.layers.0.self_attn.W_pack"


def _attribute_of(op: str, index: int, change: str) -> str:
    """A statement that changes the attribute of one of the graph's nodes of a kind; more follows it."""
    return f"[a for n in simplified.graph.node if n.op_type == {op!r} for a in n.attribute][{index}].f {change}\n    "


_INTERLEAVED = """
        for d in range(width):
            other = load(source, token, head, d ^ 1, lanes=1)
            turned = other if d % 2 else splat(0.0, lanes=1) - other
            cosine = load(self.cosine, token, 0, d // 2, lanes=1)
            sine = load(self.sine, token, 0, d // 2, lanes=1)
            yield d, 1, load(source, token, head, d, lanes=1) * cosine + turned * sine
        return
"""

MODELING = (
    Mutation(
        name="ALiBi slopes not cut to the rank's heads",
        case=ALIBI_4,
        during="modeling",
        edits=(
            Edit(
                _ALIBI_FILE,
                "for head in self.shards.query_heads]",
                "for head in range(len(self.shards.query_heads))]",
            ),
        ),
        found=(Found(stage="modeling file, 4 ranks", block=_ATTENTION, op=_PAGED, ranks=(1, 2)),),
    ),
    Mutation(
        name="ALiBi slopes of the padded head count",
        case=ALIBI_4,
        during="modeling",
        edits=(
            Edit(
                _ALIBI_FILE,
                "alibi_slopes(config.num_attention_heads)",
                "alibi_slopes(self.num_heads * config.rank_num)",
            ),
        ),
        found=(Found(stage="modeling file, 4 ranks", block=_ATTENTION, op=_PAGED, ranks=(0, 1, 2)),),
    ),
    Mutation(
        name="ALiBi slopes missing",
        case=ALIBI_4,
        during="modeling",
        edits=(Edit("source_code/attention.py", "slopes=self.alibi_slopes()", "slopes=None"),),
        found=(Found(stage="modeling file, 1 rank", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="NormHead not normalised",
        case=ALIBI_4,
        during="modeling",
        edits=(Edit("source_code/parallel_layers.py", 'self.shard, ("normalize_rows",))', "self.shard, ())"),),
        found=(Found(stage="modeling file, 1 rank", block="head", op="Linear lm_head"),),
    ),
    Mutation(
        name="NormHead normalised by half of the hidden columns",
        case=ALIBI_4,
        during="modeling",
        edits=(
            Edit(
                "vamc_compiler.weights.shards:normalize_rows",
                '"ij,ij->i", rows, rows',
                '"ij,ij->i", *[rows[:, : rows.shape[1] // 2]] * 2',
            ),
        ),
        found=(Found(stage="modeling file, 1 rank", block="head", op="Linear lm_head"),),
    ),
    Mutation(
        name="RoPE interleaved, modeling",
        case=ROTARY_2,
        during="modeling",
        edits=(
            Edit(
                "vamc_compiler.ops.paged_attention:rotate",
                "turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)",
                "turned = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)\n"
                "    cosine, sine = (angle[..., :half].repeat_interleave(2, -1) for angle in (cosine, sine))",
            ),
        ),
        found=(Found(stage="modeling file, 1 rank", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="RoPE with another base",
        case=ROTARY_2,
        during="modeling",
        edits=(Edit("source_code/rotary.py", "config.rope_theta) **", "config.rope_theta / 2) **"),),
        found=(Found(stage="modeling file, 1 rank", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="causal mask off by one, modeling",
        case=ROTARY_2,
        during="modeling",
        edits=(
            Edit(
                _EAGER_ATTENTION,
                "<= position[:, None]",
                "<= position[:, None] + 1",
            ),
        ),
        found=(Found(stage="modeling file, 1 rank", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="residual added twice",
        case=ROTARY_2,
        during="modeling",
        edits=(Edit("source_code/decoder.py", "return x, self.mlp", "return x + attended, self.mlp"),),
        found=(Found(stage="modeling file, 1 rank", block="layer 0 feed-forward", op="residual stream"),),
    ),
    Mutation(
        name="gate and up swapped",
        case=ROTARY_2,
        during="modeling",
        edits=(
            Edit(
                "source_code/decoder.py",
                "self.gate_proj(x), self.up_proj(x)",
                "self.up_proj(x), self.gate_proj(x)",
            ),
        ),
        found=(Found(stage="modeling file, 1 rank", block="layer 0 feed-forward", op="SiluMul model.layers.0.mlp"),),
    ),
    Mutation(
        name="AllReduce missing after the feed-forward, modeling",
        case=ROTARY_2,
        during="modeling and trace",
        edits=(
            Edit(
                "source_code/decoder.py",
                "sum_over_ranks(self.down_proj(inner), self.rank_num)",
                _DOWN,
            ),
        ),
        found=(
            Found(
                stage="modeling file, 2 ranks", block="layer 0 feed-forward", op="Linear model.layers.0.mlp.down_proj"
            ),
        ),
    ),
    Mutation(
        name="replicas of a key/value head hold the next one",
        case=ROTARY_4,
        during="modeling",
        edits=(
            Edit(
                "vamc_compiler.sharding:lay_out_heads",
                "blocks += [(kv, tuple(heads[i : i + group]))",
                "blocks += [(min(kv + (i > 0), num_kv_heads - 1), tuple(heads[i : i + group]))",
            ),
        ),
        found=(Found(stage="modeling file, 4 ranks", block=_ATTENTION, op=_PAGED, ranks=(1,)),),
    ),
)

GRAPHS = (
    Mutation(
        name="causal mask off by one, ONNX function",
        case=ROTARY_2,
        during="trace",
        edits=(
            Edit(
                "vamc_compiler.ops.paged_attention:_function_body",
                "LessOrEqual(key_position, position_column)",
                "Less(key_position, position_column)",
            ),
        ),
        found=(Found(stage="exported ONNX, 2 ranks", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="RoPE halves turned in the wrong order, ONNX function",
        case=ROTARY_2,
        during="trace",
        edits=(
            Edit(
                "vamc_compiler.ops.paged_attention:_rotation",
                "_turned = Concat <axis = -1> ({name}_negative, {name}_low)",
                "_turned = Concat <axis = -1> ({name}_low, {name}_negative)",
            ),
        ),
        found=(Found(stage="exported ONNX, 2 ranks", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="simplification changes an attention's scale",
        case=ROTARY_2,
        during="trace",
        edits=(
            Edit(
                _SIMPLIFY,
                _CHECK,
                _attribute_of("PagedAttention", 1, "*= 0.75") + _CHECK,
            ),
        ),
        found=(
            Found(
                stage="simplified ONNX, 2 ranks",
                block="layer 1 attention",
                op="PagedAttention model.layers.1.self_attn",
            ),
        ),
    ),
    Mutation(
        name="simplification changes a norm's epsilon",
        case=ROTARY_2,
        during="trace",
        edits=(
            Edit(
                _SIMPLIFY,
                _CHECK,
                _attribute_of("RMSNorm", 0, "= 1e-3") + _CHECK,
            ),
        ),
        found=(
            Found(
                stage="simplified ONNX, 2 ranks",
                block=_ATTENTION,
                op="RMSNorm model.layers.0.input_layernorm",
            ),
        ),
    ),
)

LIBRARIES = (
    Mutation(
        name="key and value written to the next slot",
        case=ROTARY,
        during="library",
        edits=(Edit(_KERNEL + "_Step.append", _SLOT, "slot = tir.opaque((where + 1) % LANES)"),),
        found=(Found(stage="compiled, 1 rank", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="written to the next slot in steps of one token",
        case=ROTARY,
        during="library",
        edits=(Edit(_KERNEL + "_Step.append", _SLOT, _moved_slot("self.tokens == 1")),),
        found=(
            Found(stage="compiled, 1 rank, in chunks", check="chunked prefill", block=_ATTENTION, op=_PAGED),
            Found(stage="compiled, 1 rank, token by token", check="cached decode", block=_ATTENTION, op=_PAGED),
        ),
    ),
    Mutation(
        name="written to the next slot where a step begins within a page",
        case=ROTARY,
        during="library",
        edits=(Edit(_KERNEL + "_Step.append", _SLOT, _moved_slot("self.position[0] % LANES != 0")),),
        found=(
            Found(stage="compiled, 1 rank, in chunks", check="chunked prefill", block=_ATTENTION, op=_PAGED),
            Found(stage="compiled, 1 rank, token by token", check="cached decode", block=_ATTENTION, op=_PAGED),
        ),
    ),
    Mutation(
        name="written to a page by its place in the sequence, past the page table",
        case=ROTARY,
        during="library",
        edits=(
            Edit(
                _KERNEL + "_Step.append",
                "page = self.page(self.sequence[token], where // LANES)",
                "page = tir.opaque(where // LANES)",
            ),
        ),
        found=(Found(stage="compiled, 1 rank", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="causal mask off by one, kernel",
        case=ROTARY,
        during="library",
        edits=(Edit(_KERNEL + "_Tile._softmax", "keys <= splat(self.positions", "keys < splat(self.positions"),),
        found=(Found(stage="compiled, 1 rank", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="RoPE interleaved, kernel",
        case=ROTARY,
        during="library",
        edits=(Edit(_KERNEL + "_Step.rotated", "half = width // 2", _INTERLEAVED),),
        found=(Found(stage="compiled, 1 rank", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="products added in float16",
        case=ROTARY,
        during="library",
        edits=(
            Edit(
                "vamc_compiler.kernels.dot_float:HalfFma.tile",
                "sums.block[register] = sums.block[register] + value * weights[panel]",
                "total = sums.block[register] + value * weights[panel]\n"
                '                        sums.block[register] = cast(cast(total, "float16"), "float32")',
            ),
        ),
        found=(Found(stage="compiled, 1 rank", block=_ATTENTION, op="Linear model.layers.0.self_attn.q_proj"),),
    ),
    Mutation(
        name="AllReduce missing, compiled",
        case=ALIBI,
        during="library",
        edits=(
            Edit(
                "vamc_compiler.ops.all_reduce:_lower",
                "return builder.emit(relax.op.call_dps_packed(PACKED_FUNCTION, [x], out_ty=x.ty))",
                "return x",
            ),
        ),
        found=(Found(stage="compiled, 2 ranks", block=_ATTENTION, op="residual stream"),),
    ),
    Mutation(
        name="a library compiled from an older modeling file",
        case=ALIBI,
        during="stale library",
        edits=(Edit("source_code/attention.py", "scale=self.head_dim**-0.5", "scale=self.head_dim**-0.6"),),
        found=(Found(stage="compiled, 2 ranks", block=_ATTENTION, op=_PAGED),),
    ),
)

WEIGHTS = (
    Mutation(
        name="one rank given another's shard",
        case=ALIBI,
        during="files",
        damage=lambda runstream: give_shard(runstream, giver=0, taker=1),
        found=(
            Found(
                stage="weights, 2 ranks",
                check="weights",
                op="model.layers.0.self_attn.slopes",
                ranks=(1,),
                detail="rank 0's values",
            ),
            Found(stage="compiled, 2 ranks", block=_ATTENTION, op=_FIRST_INT8, ranks=(1,)),
        ),
    ),
    Mutation(
        name="scales off by one channel",
        case=ALIBI,
        during="files",
        damage=lambda runstream: roll_channels(runstream, 1, "model.layers.1.mlp.gate_proj.scale_w"),
        found=(
            Found(
                stage="weights, 2 ranks",
                check="weights",
                op="model.layers.1.mlp.gate_proj.scale_w",
                ranks=(1,),
                detail="neighbouring channel",
            ),
            Found(
                stage="compiled, 2 ranks",
                block="layer 1 feed-forward",
                op="QuantizedLinearPerChannel model.layers.1.mlp.gate_proj",
                ranks=(1,),
            ),
        ),
    ),
    Mutation(
        name="two panels of a weight swapped",
        case=ALIBI,
        during="files",
        damage=lambda runstream: swap_panels(runstream, 0, "model.layers.1.self_attn.W_pack.quant_w"),
        found=(
            Found(
                stage="weights, 2 ranks",
                check="weights",
                op="model.layers.1.self_attn.W_pack.quant_w",
                ranks=(0,),
                detail="panels 0 and 1 are swapped",
            ),
            Found(
                stage="compiled, 2 ranks",
                block="layer 1 attention",
                op="QuantizedLinearPerChannel model.layers.1.self_attn.W_pack",
                ranks=(0,),
            ),
        ),
    ),
    Mutation(
        name="the second panel of every weight packed in another order",
        case=ALIBI,
        during="weights",
        edits=(
            Edit(
                "vamc_compiler.packing:QuadPacking.pack",
                "packed[:, :quads] = groups.reshape(panels, quads, -1)",
                "packed[:, :quads] = groups.reshape(panels, quads, -1)\n"
                "        packed[1, :quads] = groups[1].transpose(0, 2, 1).reshape(quads, -1)",
            ),
        ),
        found=(
            Found(
                stage="weights, 2 ranks",
                check="weights",
                op="model.layers.0.self_attn.W_pack.quant_w",
                detail="panel 1 differs: outputs 16..31",
            ),
            Found(stage="compiled, 2 ranks", block=_ATTENTION, op=_FIRST_INT8),
        ),
    ),
    Mutation(
        name="NormHead written without normalisation",
        case=ALIBI,
        during="weights",
        edits=(Edit("vamc_compiler.weights.shards:_process", "rows = normalize_rows(rows)", "pass"),),
        found=(
            Found(
                stage="weights, 2 ranks",
                check="weights",
                op="lm_head.weight",
                detail="rows that are not normalised",
            ),
            Found(stage="compiled, 2 ranks", block="head", op="Linear lm_head"),
        ),
    ),
    Mutation(
        name="scales of the split row instead of the full one",
        case=ALIBI,
        during="weights",
        edits=(
            Edit(
                "vamc_compiler.weights.shards:_process",
                "scales = row_scales(rows)",
                "rows, columns = _take_columns(rows, columns), (Piece(0, sum(piece.length for piece in columns)),)\n"
                "            scales = row_scales(rows)",
            ),
        ),
        found=(
            Found(
                stage="weights, 2 ranks",
                check="weights",
                op="model.layers.0.self_attn.o_proj.quant_w",
                detail="scaled by the rank's columns instead of the full rows",
            ),
            Found(
                stage="compiled, 2 ranks",
                block=_ATTENTION,
                op="QuantizedLinearPerChannelByTop model.layers.0.self_attn.o_proj",
            ),
        ),
    ),
)

MUTATIONS = (*MODELING, *GRAPHS, *LIBRARIES, *WEIGHTS)
