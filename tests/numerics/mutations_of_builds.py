"""Mistakes in kernels, in libraries and in the files of ranks."""

from __future__ import annotations

from mutation import ALIBI, ROTARY, Edit, Found, Mutation
from rank_bytes import give_shard, roll_channels, swap_panels

_ATTENTION = "layer 0 attention"
_PAGED = "PagedAttention model.layers.0.self_attn"
_FIRST_INT8 = "QuantizedLinearPerChannel model.layers.0.self_attn.W_pack"
_KERNEL = "vamc_compiler.kernels.paged_attention:"
_SLOT = "slot = tir.opaque(where % LANES)"
_INTERLEAVED = """
        for d in range(width):
            other = load(source, token, head, d ^ 1, lanes=1)
            turned = other if d % 2 else splat(0.0, lanes=1) - other
            cosine = load(self.cosine, token, 0, d // 2, lanes=1)
            sine = load(self.sine, token, 0, d // 2, lanes=1)
            yield d, 1, load(source, token, head, d, lanes=1) * cosine + turned * sine
        return
"""


def _moved_slot(when: str) -> str:
    """The slot of a token, one further in its page where `when` holds."""
    one, none = 'tir.constant(1, "int64")', 'tir.constant(0, "int64")'
    return f"slot = tir.opaque((where + tir.select({when}, {one}, {none})) % LANES)"


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
        name="largest magnitude of half a row",
        case=ALIBI,
        during="library",
        edits=(
            Edit(
                "vamc_compiler.kernels.activations:row_max_kernel",
                "over_row(width, lambda",
                "over_row(width // 2, lambda",
            ),
        ),
        found=(
            Found(
                stage="compiled, 2 ranks",
                block=_ATTENTION,
                op="QuantizedLinearPerChannelByTop model.layers.0.self_attn.o_proj",
            ),
        ),
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
        found=(Found(stage="compiled, 2 ranks", block=_ATTENTION, op="AllReduce model.layers.0.self_attn.o_proj"),),
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
        damaged="rank 0's file under rank 1's name",
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
        damaged="bytes of rank 1's file: `scale_w` rolled by one",
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
        damaged="bytes of rank 0's file",
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
                op="model.layers.0.self_attn.o_proj.quant_w",
                detail="panel 1 differs: outputs 16..31",
            ),
            Found(stage="compiled, 2 ranks", block=_ATTENTION, op=_FIRST_INT8),
        ),
    ),
    Mutation(
        name="NormHead written without normalisation",
        case=ALIBI,
        during="weights",
        edits=(
            Edit("vamc_compiler.weights.transforms:normalize_rows", "rows / np.maximum(norms, 1e-12)[:, None]", "rows"),
        ),
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
                "vamc_compiler.weights.shards:plan_tasks",
                "key = (origin.sources,",
                "key = (parameter.path, origin.sources,",
            ),
            Edit(
                "vamc_compiler.weights.shards:_stored_blocks",
                "[reader.read(source, pieces) for source in task.sources]",
                "[_take_columns(reader.read(source, pieces), columns) for source in task.sources for columns in [next("
                "(form.columns for form in forms if form.columns), (Piece(0, source[0].num_columns),))]]",
            ),
            Edit("vamc_compiler.weights.shards:_store", "_take_columns(values, form.columns)", "values"),
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
