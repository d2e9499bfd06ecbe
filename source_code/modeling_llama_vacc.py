"""One rank of LLaMA 1, 2 and 3 (and models published under `model_type: llama`).

Follows the semantics of `LlamaForCausalLM` in huggingface/transformers v5.23
(src/transformers/models/llama/modeling_llama.py). What differs from upstream, and why:

- Tokens are flattened and keys and values live in pages: one function serves prefill, chunks, decode and mixtures.
- Key/value heads are shared by query heads inside `vamc::PagedAttention`; nothing is repeated.
- Heads that tp does not divide are padded with zeros; key/value heads are replicated when tp exceeds them.
- Rotary angles are computed once per step for all layers.
- The slice to the wanted tokens stands before the head (`logits_index`).
"""

from __future__ import annotations

import torch
from torch import nn

from vamc_compiler.model.config import ModelConfig
from vamc_compiler.ops import paged_attention

from .decoder import CausalLM, StepInputs
from .parallel_layers import AttentionShards, ParallelLinear, sum_over_ranks
from .rotary import RotaryEmbedding, rotate


class LlamaAttention(nn.Module):
    """Rotary grouped-query attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        hidden, self.head_dim, self.rank_num = config.hidden_size, config.head_dim, config.rank_num
        shards = AttentionShards(heads, kv_heads, self.head_dim, config.rank_index, config.rank_num)
        self.num_heads, self.num_kv_heads = shards.layout.num_query_slots, shards.layout.num_kv_slots
        self.q_proj = ParallelLinear(hidden, heads * self.head_dim, shards.query)
        self.k_proj = ParallelLinear(hidden, kv_heads * self.head_dim, shards.key_value)
        self.v_proj = ParallelLinear(hidden, kv_heads * self.head_dim, shards.key_value)
        self.o_proj = ParallelLinear(heads * self.head_dim, hidden, shards.output)

    def forward(self, x: torch.Tensor, kv_cache: torch.Tensor, step: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Map x float32 [n, hidden] to float32 [n, hidden] and the updated cache pages."""
        assert step.rotary is not None, "a rotary model computes its angles once per step"
        query = self.q_proj(x).reshape(-1, self.num_heads, self.head_dim)
        key = self.k_proj(x).reshape(-1, self.num_kv_heads, self.head_dim)
        value = self.v_proj(x).reshape(-1, self.num_kv_heads, self.head_dim)
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


class LlamaForCausalLM(CausalLM):
    """LLaMA with its language-model head."""

    attention = LlamaAttention
    rotary = RotaryEmbedding
