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

from vamc_compiler.model.config import ModelConfig

from .attention import PackedAttention
from .decoder import CausalLM
from .parallel_layers import Head, NormHead, add_constant


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


class BaichuanAttention(PackedAttention):
    """ALiBi attention with q, k and v in one projection."""

    slopes: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        every = alibi_slopes(config.num_attention_heads)
        mine = [0.0 if head is None else every[head] for head in self.shards.query_heads]
        add_constant(self, "slopes", np.array(mine, np.float32))

    def alibi_slopes(self) -> torch.Tensor:
        """Slope float32 [h] of this rank's heads."""
        return self.slopes


def make_baichuan_head(config: ModelConfig) -> Head:
    """Baichuan2 has a NormHead, the first Baichuan a plain one."""
    kind = NormHead if config.normalize_head else Head
    return kind(config.hidden_size, config.vocab_size, config.rank_index, config.rank_num)


class BaichuanForCausalLM(CausalLM):
    """Baichuan 13B with its language-model head."""

    attention = BaichuanAttention

    def make_head(self, config: ModelConfig) -> Head:
        """The head of this Baichuan generation."""
        return make_baichuan_head(config)
