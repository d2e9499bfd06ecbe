"""One rank of LLaMA 1, 2 and 3 (and models published under `model_type: llama`).

Follows the semantics of `LlamaForCausalLM` in huggingface/transformers v5.23
(src/transformers/models/llama/modeling_llama.py). What differs from upstream, and why:

- Tokens are flattened and keys and values live in pages: one function serves prefill, chunks, decode and mixtures.
- Key/value heads are shared by query heads inside `vamc::PagedAttention`; nothing is repeated.
- Heads that tp does not divide are padded (`HeadLayout`); key/value heads are replicated when tp exceeds them.
- Rotary angles are computed once per step for all layers.
- The slice to the wanted tokens stands before the head (`logits_index`).
"""

from __future__ import annotations

import torch

from vamc_compiler.model.config import ModelConfig

from .attention import Attention, QueryKeyValue
from .decoder import CausalLM
from .parallel_layers import ParallelLinear
from .rotary import RotaryEmbedding


class LlamaAttention(Attention):
    """Rotary grouped-query attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        hidden = config.hidden_size
        width, kv_width = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = ParallelLinear(hidden, width, self.shards.query)
        self.k_proj = ParallelLinear(hidden, kv_width, self.shards.key_value)
        self.v_proj = ParallelLinear(hidden, kv_width, self.shards.key_value)

    def project(self, x: torch.Tensor) -> QueryKeyValue:
        """See `Attention.project`."""
        query = self.q_proj(x).reshape(-1, self.num_heads, self.head_dim)
        key = self.k_proj(x).reshape(-1, self.num_kv_heads, self.head_dim)
        value = self.v_proj(x).reshape(-1, self.num_kv_heads, self.head_dim)
        return query, key, value


class LlamaForCausalLM(CausalLM):
    """LLaMA with its language-model head."""

    attention = LlamaAttention
    rotary = RotaryEmbedding
