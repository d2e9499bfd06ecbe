"""One rank of Baichuan-13B and Baichuan2-13B.

Follows the semantics of `modeling_baichuan.py` as published with Baichuan2-13B-Chat and of its patched form in
Vastai/VastModelZOO (43aff36b, llm/baichuan2/build_in/source_code). What differs from upstream, and why:

- Tokens are flattened and keys and values live in pages: one function serves prefill, chunks, decode and mixtures.
- `W_pack` holds this rank's heads of q, k and v; the output is cut in three at any width.
- ALiBi slopes come from the true head count, cut to this rank's heads; padded heads get 0. (The original computes
  them for the padded count, which is wrong for tp 32 and 64.)
- The causal mask and the slope bias are inside `vamc::PagedAttention`; no mask tensor exists.
- `NormHead` rows are normalised when weights are written, before any split.
- The slice to the wanted tokens stands before the head (`logits_index`).
- Arithmetic is float32; training-time code (gradient checkpointing, dropout, z-loss) is left out.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from vamc_compiler.model.config import ModelConfig
from vamc_compiler.ops import paged_attention

from .decoder import CausalLM, StepInputs
from .parallel_layers import AttentionShards, Head, NormHead, ParallelLinear, add_constant, sum_over_ranks

BAICHUAN1_VOCAB_SIZE = 64000


def alibi_slopes(num_heads: int) -> list[float]:
    """Slope of every head (arXiv 2108.12409).

    For a count that is no power of two: the slopes of the next lower power of two, then every second slope of twice
    that power.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    if power < num_heads:
        slopes += alibi_slopes(2 * power)[0::2][: num_heads - power]
    return slopes


class BaichuanAttention(nn.Module):
    """ALiBi attention with q, k and v in one projection."""

    slopes: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, self.head_dim, self.rank_num = config.num_attention_heads, config.head_dim, config.rank_num
        shards = AttentionShards(heads, heads, self.head_dim, config.rank_index, config.rank_num)
        self.num_heads = self.num_kv_heads = shards.layout.num_query_slots
        self.W_pack = ParallelLinear(config.hidden_size, 3 * heads * self.head_dim, shards.packed_qkv)
        self.o_proj = ParallelLinear(heads * self.head_dim, config.hidden_size, shards.output)
        every = alibi_slopes(heads)
        mine = [0.0 if head is None else every[head] for head in shards.query_heads]
        add_constant(self, "slopes", np.array(mine, np.float32))

    def forward(self, x: torch.Tensor, kv_cache: torch.Tensor, step: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Map x float32 [n, hidden] to float32 [n, hidden] and the updated cache pages."""
        query, key, value = self.W_pack(x).reshape(-1, 3, self.num_heads, self.head_dim).unbind(1)
        attended, kv_cache = paged_attention(
            query,
            key,
            value,
            kv_cache,
            step.position_ids,
            step.seq_ids,
            step.page_table,
            scale=self.head_dim**-0.5,
            slopes=self.slopes,
        )
        attended = attended.reshape(-1, self.num_heads * self.head_dim)
        return sum_over_ranks(self.o_proj(attended), self.rank_num), kv_cache


def make_baichuan_head(config: ModelConfig) -> Head:
    """Baichuan2 has a NormHead; the first Baichuan, told by its vocabulary, a plain one."""
    kind = Head if config.vocab_size == BAICHUAN1_VOCAB_SIZE else NormHead
    return kind(config.hidden_size, config.vocab_size, config.rank_index, config.rank_num)


class BaichuanForCausalLM(CausalLM):
    """Baichuan 13B with its language-model head."""

    attention = BaichuanAttention

    def make_head(self, config: ModelConfig) -> Head:
        """The head of this Baichuan generation."""
        return make_baichuan_head(config)
