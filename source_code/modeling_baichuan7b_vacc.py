"""One rank of Baichuan-7B and Baichuan2-7B.

Follows the semantics of `modeling_baichuan.py` as published with Baichuan2-7B-Chat and of its patched form in
Vastai/VastModelZOO (43aff36b, llm/baichuan2/build_in/source_code). Differs from upstream as the 13B file does, and:

- Rotary angles are computed once per step for all layers, and applied inside `vamc::PagedAttention`.
- Scores are not clamped at the smallest float: with float32 scores and a mask inside the op nothing can reach it.
"""

from __future__ import annotations

from vamc_compiler.model.config import ModelConfig

from .attention import PackedAttention
from .decoder import CausalLM
from .modeling_baichuan13b_vacc import make_baichuan_head
from .parallel_layers import Head
from .rotary import RotaryEmbedding


class BaichuanAttention(PackedAttention):
    """Rotary attention with q, k and v in one projection."""


class BaichuanForCausalLM(CausalLM):
    """Baichuan 7B with its language-model head."""

    attention = BaichuanAttention
    rotary = RotaryEmbedding

    def make_head(self, config: ModelConfig) -> Head:
        """The head of this Baichuan generation."""
        return make_baichuan_head(config)
