"""`vamc::PagedAttention`: append keys and values to a paged cache, then attend causally over it.

Dimension letters: n tokens of the step (of any sequences, flattened), h query heads, g key/value heads (h is a
multiple of g: grouped-query attention), d head width, b sequences, p pages per sequence in the table, P pages in the
cache, s tokens per page. Rotary embedding (rotate-half form), when given, is applied to queries and keys inside; ALiBi
slopes, when given, add slope * key position (the form of Baichuan2-13B: the absolute key index, equal to the relative
form up to a constant per row).

Cache layout: kv_cache float16 [P, 2, g, s, d]; index 0 of the second axis holds keys, 1 values. A head's keys of one
page lie together, so a kernel streams them; the CPU kernel keeps them transposed there, [d, s] in the same place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
import torch

from vamc_compiler.ops.definition import VamcOp, emit_node, exporting

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotate x float32 [n, heads, d] by the angles of its tokens, rotate-half form (arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cosine + turned * sine


def paged_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    kv_cache: torch.Tensor,
    position_ids: torch.Tensor,
    seq_ids: torch.Tensor,
    page_table: torch.Tensor,
    scale: float,
    slopes: torch.Tensor | None = None,
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from each token to the keys at positions 0..position of its own sequence.

    Args:
        query: float32 [n, h, d].
        key: float32 [n, g, d].
        value: float32 [n, g, d].
        kv_cache: float16 [P, 2, g, s, d].
        position_ids: int32 [n], the token's position in its sequence.
        seq_ids: int32 [n], the row of `page_table` that is the token's sequence.
        page_table: int32 [b, p], the cache page that holds positions p*s .. p*s+s-1 of each sequence.
        scale: factor on query·key, usually d ** -0.5.
        slopes: float32 [h] ALiBi slopes; None for models without.
        rotary: cosine and sine float32 [n, 1, d] of each token's angles; None for models without.

    Returns:
        float32 [n, h, d] and the cache with the step's keys and values written.
    """
    if exporting():
        inputs = [query, key, value, kv_cache, position_ids, seq_ids, page_table]
        inputs += [] if slopes is None else [slopes]
        inputs += [] if rotary is None else list(rotary)
        outputs = [(query.dtype, query.shape), (kv_cache.dtype, kv_cache.shape)]
        result = emit_node("PagedAttention", inputs, outputs, {"scale": scale})
        return result[0], result[1]
    if rotary is not None:
        query, key = rotate(query, *rotary), rotate(key, *rotary)
    num_tokens, num_heads, head_dim = query.shape
    num_kv_heads, page_tokens = kv_cache.shape[2:4]
    position, row = position_ids.long(), seq_ids.long()
    page = page_table[row, position // page_tokens].long()
    kv_cache = kv_cache.clone()
    kv_cache[page, :, :, position % page_tokens] = torch.stack((key, value), 1).to(kv_cache.dtype)

    # Keys and values of every sequence in the step, one after the other: [2, g, b*p*s, d].
    context = kv_cache[page_table.long()].permute(2, 3, 0, 1, 4, 5).reshape(2, num_kv_heads, -1, head_dim)
    keys, values = context.to(query.dtype)
    length = page_table.shape[1] * page_tokens
    index = torch.arange(keys.shape[1], device=query.device)
    key_position, key_row = index % length, index // length
    visible = (key_row[None] == row[:, None]) & (key_position[None] <= position[:, None])

    grouped = query.reshape(num_tokens, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3)
    scores = torch.matmul(grouped, keys[:, None].transpose(-1, -2)) * scale
    if slopes is not None:
        scores = scores + slopes.reshape(num_kv_heads, -1, 1, 1) * key_position.to(query.dtype)
    scores = scores.masked_fill(~visible, float("-inf"))
    attended = torch.matmul(torch.softmax(scores, -1), values[:, None])
    return attended.permute(2, 0, 1, 3).reshape(num_tokens, num_heads, head_dim), kv_cache


_NUM_INPUTS = 7
"""Inputs that every node has; then come slopes, or cosine and sine, or all three."""


def _options(num_inputs: int) -> tuple[bool, bool]:
    """Whether a node has slopes, and whether it has cosine and sine."""
    extra = num_inputs - _NUM_INPUTS
    return extra in (1, 3), extra in (2, 3)


def _rotation(name: str) -> str:
    """ONNX text that rotates the tensor `name` to `name_rotated`."""
    return f"""
      {name}_low = Slice({name}, zero, half_1d, minus_one)
      {name}_high = Slice({name}, half_1d, d, minus_one)
      {name}_negative = Neg({name}_high)
      {name}_turned = Concat <axis = -1> ({name}_negative, {name}_low)
      {name}_straight = Mul({name}, cosine)
      {name}_crossed = Mul({name}_turned, sine)
      {name}_rotated = Add({name}_straight, {name}_crossed)"""


_NO_BIAS = "      scores = Identity(scores_scaled)"
_ALIBI_BIAS = """\
      slopes_shape = Concat <axis = 0> (g, minus_one, one, one)
      slopes_grouped = Reshape(slopes, slopes_shape)
      key_position_float = CastLike(key_position, query)
      bias = Mul(slopes_grouped, key_position_float)
      scores = Add(scores_scaled, bias)"""


def _function_body(node: onnx.NodeProto) -> str:
    has_slopes, has_rotary = _options(len(node.input))
    options = ", slopes" * has_slopes + ", cosine, sine" * has_rotary
    rotation = "\n      half_1d = Div(d, two)" + _rotation("query") + _rotation("key") if has_rotary else ""
    rotated = "_rotated" * has_rotary
    return f"""
    PagedAttention <scale> (query, key, value, kv_cache, position_ids, seq_ids, page_table{options})
        => (attended, kv_updated) {{
      zero = Constant <value_ints = [0]> ()
      one = Constant <value_ints = [1]> ()
      two = Constant <value_ints = [2]> ()
      minus_one = Constant <value_ints = [-1]> ()
      zero_scalar = Constant <value_int = 0> ()
      one_scalar = Constant <value_int = 1> ()
      position = Cast <to = 7> (position_ids)
      row = Cast <to = 7> (seq_ids)
      table = Cast <to = 7> (page_table)
      n = Shape <start = 0, end = 1> (query)
      h_d = Shape <start = 1, end = 3> (query)
      d = Shape <start = 2, end = 3> (query)
      g = Shape <start = 2, end = 3> (kv_cache)
      s = Shape <start = 3, end = 4> (kv_cache){rotation}

      page_index = Div(position, s)
      slot = Mod(position, s)
      row_column = Unsqueeze(row, one)
      page_index_column = Unsqueeze(page_index, one)
      table_index = Concat <axis = 1> (row_column, page_index_column)
      page = GatherND(table, table_index)

      update_shape = Concat <axis = 0> (n, two, g, one)
      shape_n111 = Concat <axis = 0> (n, one, one, one)
      page_column = Reshape(page, shape_n111)
      page_all = Expand(page_column, update_shape)
      slot_column = Reshape(slot, shape_n111)
      slot_all = Expand(slot_column, update_shape)
      half = Constant <value = int64[1,2,1,1] {{0, 1}}> ()
      half_all = Expand(half, update_shape)
      g_scalar = Squeeze(g)
      head_range = Range(zero_scalar, g_scalar, one_scalar)
      shape_11g1 = Concat <axis = 0> (one, one, g, one)
      head = Reshape(head_range, shape_11g1)
      head_all = Expand(head, update_shape)
      write_index = Concat <axis = 3> (page_all, half_all, head_all, slot_all)
      key_column = Unsqueeze(key{rotated}, one)
      value_column = Unsqueeze(value, one)
      key_value = Concat <axis = 1> (key_column, value_column)
      key_value_stored = CastLike(key_value, kv_cache)
      kv_updated = ScatterND(kv_cache, write_index, key_value_stored)

      context_pages = Gather <axis = 0> (kv_updated, table)
      context_by_half = Transpose <perm = [2, 3, 0, 1, 4, 5]> (context_pages)
      context_shape = Concat <axis = 0> (two, g, minus_one, d)
      context_stored = Reshape(context_by_half, context_shape)
      context = CastLike(context_stored, query)
      keys = Gather <axis = 0> (context, zero)
      values = Gather <axis = 0> (context, one)
      keys_grouped_shape = Concat <axis = 0> (g, one, minus_one, d)
      keys_grouped = Reshape(keys, keys_grouped_shape)
      values_grouped = Reshape(values, keys_grouped_shape)

      pages_per_row = Shape <start = 1, end = 2> (table)
      length = Mul(pages_per_row, s)
      num_keys = Shape <start = 2, end = 3> (keys_grouped)
      num_keys_scalar = Squeeze(num_keys)
      key_index = Range(zero_scalar, num_keys_scalar, one_scalar)
      key_position = Mod(key_index, length)
      key_row = Div(key_index, length)
      same_row = Equal(key_row, row_column)
      position_column = Unsqueeze(position, one)
      not_later = LessOrEqual(key_position, position_column)
      visible = And(same_row, not_later)

      query_shape = Concat <axis = 0> (n, g, minus_one, d)
      query_by_token = Reshape(query{rotated}, query_shape)
      query_grouped = Transpose <perm = [1, 2, 0, 3]> (query_by_token)
      keys_transposed = Transpose <perm = [0, 1, 3, 2]> (keys_grouped)
      scores_raw = MatMul(query_grouped, keys_transposed)
      scale_value = Constant <value_float: float = @scale> ()
      scores_scaled = Mul(scores_raw, scale_value)
{_ALIBI_BIAS if has_slopes else _NO_BIAS}
      minus_infinity = Constant <value_float = -3.4028234e38> ()
      scores_masked = Where(visible, scores, minus_infinity)
      weights = Softmax <axis = -1> (scores_masked)
      attended_grouped = MatMul(weights, values_grouped)
      attended_by_token = Transpose <perm = [2, 0, 1, 3]> (attended_grouped)
      attended_shape = Concat <axis = 0> (n, h_d)
      attended = Reshape(attended_by_token, attended_shape)
    }}"""


def _lower(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], kernels: Emitter) -> Any:
    has_slopes, has_rotary = _options(len(inputs))
    slopes = inputs[_NUM_INPUTS] if has_slopes else None
    rotary = inputs[-2:] if has_rotary else []
    return kernels.paged_attention(
        builder, inputs[:_NUM_INPUTS], scale=attributes["scale"], slopes=slopes, rotary=rotary
    )


PAGED_ATTENTION = VamcOp("PagedAttention", _function_body, _lower)
