"""One rank of Baichuan-7B and Baichuan2-7B.

Follows the semantics of `modeling_baichuan.py` as published with Baichuan2-7B-Chat and of its patched form in
Vastai/VastModelZOO (43aff36b, llm/baichuan2/build_in/source_code). Differs from upstream as the 13B file does, and:

- Rotary angles are computed once per step for all layers, and applied before `vamc::PagedAttention`.
- Scores are not clamped at the smallest float: with float32 scores and a mask inside the op nothing can reach it.
"""

from __future__ import annotations

import torch
from torch import nn

from vamc_compiler.model.config import ModelConfig
from vamc_compiler.ops import paged_attention

from .decoder import CausalLM, StepInputs
from .modeling_baichuan13b_vacc import make_baichuan_head
from .parallel_layers import AttentionShards, Head, ParallelLinear, sum_over_ranks
from .rotary import RotaryEmbedding, rotate


class BaichuanAttention(nn.Module):
    """Rotary attention with q, k and v in one projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, self.head_dim, self.rank_num = config.num_attention_heads, config.head_dim, config.rank_num
        shards = AttentionShards(heads, heads, self.head_dim, config.rank_index, config.rank_num)
        self.num_heads = self.num_kv_heads = shards.layout.num_query_slots
        self.W_pack = ParallelLinear(config.hidden_size, 3 * heads * self.head_dim, shards.packed_qkv)
        self.o_proj = ParallelLinear(heads * self.head_dim, config.hidden_size, shards.output)

    def forward(self, x: torch.Tensor, kv_cache: torch.Tensor, step: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Map x float32 [n, hidden] to float32 [n, hidden] and the updated cache pages."""
        assert step.rotary is not None, "a rotary model computes its angles once per step"
        query, key, value = self.W_pack(x).reshape(-1, 3, self.num_heads, self.head_dim).unbind(1)
        attended, kv_cache = paged_attention(
            rotate(query, *step.rotary),
            rotate(key, *step.rotary),
            value,
            kv_cache,
            step.position_ids,
            step.seq_ids,
            step.page_table,
            scale=self.head_dim**-0.5,
        )
        attended = attended.reshape(-1, self.num_heads * self.head_dim)
        return sum_over_ranks(self.o_proj(attended), self.rank_num), kv_cache


class BaichuanForCausalLM(CausalLM):
    """Baichuan 7B with its language-model head."""

    attention = BaichuanAttention
    rotary = RotaryEmbedding

    def make_head(self, config: ModelConfig) -> Head:
        """The head of this Baichuan generation."""
        return make_baichuan_head(config)
