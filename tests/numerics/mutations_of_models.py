"""Mistakes in modeling files, in the ops' eager code and ONNX functions, and in simplification."""

from __future__ import annotations

from mutation import ALIBI, ALIBI_4, ALIBI_W8A8, ROTARY, ROTARY_4, Edit, Found, Mutation

from vamc_compiler.verify.result import FLOAT32_STAGE

_ATTENTION = "layer 0 attention"
_PAGED = "PagedAttention model.layers.0.self_attn"
_ALIBI_FILE = "source_code/modeling_baichuan13b_vacc.py"
_EAGER_ATTENTION = "vamc_compiler.ops.paged_attention:paged_attention"
_DOWN = "self.down_proj(inner)"
_SIMPLIFY, _CHECK = "vamc_compiler.onnx_stage.simplify:simplify", "if not checked or before != after:"


def _attribute_of(op: str, index: int, change: str) -> str:
    """A statement that changes the attribute of one of the graph's nodes of a kind; more follows it."""
    return f"[a for n in simplified.graph.node if n.op_type == {op!r} for a in n.attribute][{index}].f {change}\n    "


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
        found=(Found(stage=FLOAT32_STAGE, block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        # Smaller than what int8 rounds: nothing but the comparison in float32 can see it.
        name="attention weights rounded to bfloat16",
        case=ALIBI,
        during="modeling",
        edits=(
            Edit(_EAGER_ATTENTION, "torch.softmax(scores, -1)", "torch.softmax(scores, -1).bfloat16().to(query.dtype)"),
        ),
        unseen="not compiled",
        found=(Found(stage=FLOAT32_STAGE, block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        # The same; 1e-5 is LLaMA's.
        name="epsilon of another family's norms",
        case=ALIBI,
        during="modeling",
        edits=(Edit("source_code/parallel_layers.py", "self.eps = eps", "self.eps = 10 * eps"),),
        unseen="below the rounding",
        found=(Found(stage=FLOAT32_STAGE, block=_ATTENTION, op="RMSNorm model.layers.0.input_layernorm"),),
    ),
    Mutation(
        name="NormHead not normalised",
        case=ALIBI_4,
        during="modeling",
        edits=(Edit("source_code/parallel_layers.py", "self.shard, UNIT_ROWS)", "self.shard)"),),
        found=(Found(stage=FLOAT32_STAGE, block="head", op="Linear lm_head"),),
    ),
    Mutation(
        name="NormHead normalised by half of the hidden columns",
        case=ALIBI_4,
        during="modeling",
        edits=(
            Edit(
                "vamc_compiler.weights.transforms:normalize_rows",
                '"ij,ij->i", rows, rows',
                '"ij,ij->i", *[rows[:, : rows.shape[1] // 2]] * 2',
            ),
        ),
        found=(Found(stage=FLOAT32_STAGE, block="head", op="Linear lm_head"),),
    ),
    Mutation(
        name="RoPE interleaved, modeling",
        case=ROTARY,
        during="modeling",
        edits=(
            Edit(
                "vamc_compiler.ops.paged_attention:rotate",
                "turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)",
                "turned = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)\n"
                "    cosine, sine = (angle[..., :half].repeat_interleave(2, -1) for angle in (cosine, sine))",
            ),
        ),
        unseen="not compiled",
        found=(Found(stage=FLOAT32_STAGE, block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="RoPE with another base",
        case=ROTARY,
        during="modeling",
        edits=(Edit("source_code/rotary.py", "config.rope_theta) **", "config.rope_theta / 2) **"),),
        found=(Found(stage=FLOAT32_STAGE, block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="causal mask off by one, modeling",
        case=ROTARY,
        during="modeling",
        edits=(
            Edit(
                _EAGER_ATTENTION,
                "<= position[:, None]",
                "<= position[:, None] + 1",
            ),
        ),
        unseen="not compiled",
        found=(Found(stage=FLOAT32_STAGE, block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="residual added twice",
        case=ROTARY,
        during="modeling",
        edits=(Edit("source_code/decoder.py", "return x, self.mlp", "return x + attended, self.mlp"),),
        found=(Found(stage=FLOAT32_STAGE, block="layer 0 feed-forward", op="residual stream"),),
    ),
    Mutation(
        name="gate and up swapped",
        case=ROTARY,
        during="modeling",
        edits=(
            Edit(
                "source_code/decoder.py",
                "self.gate_proj(x), self.up_proj(x)",
                "self.up_proj(x), self.gate_proj(x)",
            ),
        ),
        found=(Found(stage=FLOAT32_STAGE, block="layer 0 feed-forward", op="SiluMul model.layers.0.mlp"),),
    ),
    Mutation(
        name="AllReduce missing after the feed-forward, modeling",
        case=ROTARY_4,
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
                stage="modeling file, 4 ranks", block="layer 0 feed-forward", op="Linear model.layers.0.mlp.down_proj"
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
    Mutation(
        name="AllReduceMax missing: every rank rounds by its own largest magnitude",
        case=ALIBI_W8A8,
        during="modeling",
        edits=(Edit("source_code/quantizer_vacc.py", "all_reduce_max(row_max(x)) if", "row_max(x) if"),),
        unseen="below the rounding",
        found=(
            Found(
                stage="modeling file, 2 ranks",
                # Both row-parallel layers of the block are wrong; o_proj's part stays within what rounding may do.
                block="layer 0 feed-forward",
                op="QuantizedLinearDynamicByTop model.layers.0.mlp.down_proj",
            ),
        ),
    ),
)

GRAPHS = (
    Mutation(
        name="causal mask off by one, ONNX function",
        case=ROTARY,
        during="graph",
        edits=(
            Edit(
                "vamc_compiler.ops.paged_attention:_function_body",
                "LessOrEqual(key_position, position_column)",
                "Less(key_position, position_column)",
            ),
        ),
        unseen="not compiled",
        found=(Found(stage="exported ONNX, 1 rank", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="RoPE halves turned in the wrong order, ONNX function",
        case=ROTARY,
        during="graph",
        edits=(
            Edit(
                "vamc_compiler.ops.paged_attention:_rotation",
                "_turned = Concat <axis = -1> ({name}_negative, {name}_low)",
                "_turned = Concat <axis = -1> ({name}_low, {name}_negative)",
            ),
        ),
        unseen="not compiled",
        found=(Found(stage="exported ONNX, 1 rank", block=_ATTENTION, op=_PAGED),),
    ),
    Mutation(
        name="simplification changes an attention's scale",
        case=ROTARY,
        during="graph",
        edits=(
            Edit(
                _SIMPLIFY,
                _CHECK,
                _attribute_of("PagedAttention", 1, "*= 0.75") + _CHECK,
            ),
        ),
        found=(
            Found(
                stage="simplified ONNX, 1 rank",
                block="layer 1 attention",
                op="PagedAttention model.layers.1.self_attn",
            ),
        ),
    ),
    Mutation(
        name="simplification changes a norm's epsilon",
        case=ROTARY,
        during="graph",
        edits=(
            Edit(
                _SIMPLIFY,
                _CHECK,
                _attribute_of("RMSNorm", 0, "= 1e-3") + _CHECK,
            ),
        ),
        found=(
            Found(
                stage="simplified ONNX, 1 rank",
                block=_ATTENTION,
                op="RMSNorm model.layers.0.input_layernorm",
            ),
        ),
    ),
)
