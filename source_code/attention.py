"""What the attention layers of the modeling files share; families differ in how they project and in their positions.

Dimension letters: n tokens of the step, h query heads and g key/value heads of this rank (padding included), d head
width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import nn

from vamc_compiler.model.config import ModelConfig
from vamc_compiler.ops import paged_attention

from .parallel_layers import AttentionShards, ParallelLinear, sum_over_ranks

QueryKeyValue = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class StepInputs(NamedTuple):
    """What every attention layer needs to know of the step."""

    position_ids: torch.Tensor
    """int32 [n], each token's position in its sequence."""
    seq_ids: torch.Tensor
    """int32 [n], each token's row of the page table."""
    page_table: torch.Tensor
    """int32 [b, p], the cache pages of each sequence in order of position."""
    rotary: tuple[torch.Tensor, torch.Tensor] | None
    """Cosine and sine float32 [n, 1, d]; None for ALiBi models."""


class Attention(nn.Module, ABC):
    """Causal attention over the cache pages, and the output projection; a subclass projects the input."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.rank_num = config.head_dim, config.rank_num
        self.shards = AttentionShards(heads, kv_heads, self.head_dim, config.rank_index, config.rank_num)
        self.num_heads, self.num_kv_heads = self.shards.layout.num_query_slots, self.shards.layout.num_kv_slots
        self.o_proj = ParallelLinear(heads * self.head_dim, config.hidden_size, self.shards.output)

    @abstractmethod
    def project(self, x: torch.Tensor) -> QueryKeyValue:
        """Queries [n, h, d], keys and values [n, g, d] of x float32 [n, hidden]."""

    def alibi_slopes(self) -> torch.Tensor | None:
        """Slope float32 [h] of every head; None for families with rotary positions."""
        return None

    def forward(self, x: torch.Tensor, kv_cache: torch.Tensor, step: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Map x float32 [n, hidden] to float32 [n, hidden] and the updated cache pages."""
        query, key, value = self.project(x)
        attended, kv_cache = paged_attention(
            query,
            key,
            value,
            kv_cache,
            step.position_ids,
            step.seq_ids,
            step.page_table,
            scale=self.head_dim**-0.5,
            slopes=self.alibi_slopes(),
            rotary=step.rotary,
        )
        attended = attended.reshape(-1, self.num_heads * self.head_dim)
        return sum_over_ranks(self.o_proj(attended), self.rank_num), kv_cache


class PackedAttention(Attention):
    """Attention whose q, k and v come from one matrix, `W_pack`: this rank's heads of each, one after the other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = 3 * config.num_attention_heads * self.head_dim
        self.W_pack = ParallelLinear(config.hidden_size, width, self.shards.packed_qkv)

    def project(self, x: torch.Tensor) -> QueryKeyValue:
        """See `Attention.project`; cutting in three holds at any width of the rank."""
        query, key, value = self.W_pack(x).reshape(-1, 3, self.num_heads, self.head_dim).unbind(1)
        return query, key, value
