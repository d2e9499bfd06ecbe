"""The decoder that the modeling files share: what differs between families is the attention and the head.

Dimension letters: n tokens of the step (sequences flattened one after the other), m tokens whose logits are wanted,
b sequences, p pages per sequence, v vocabulary. `n`, `b`, `p`, `m` are the only symbolic sizes; prefill, chunked
prefill, decode and mixed batches are the same function.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vamc_compiler.model.config import ModelConfig
from vamc_compiler.ops import silu_mul

from .attention import Attention, StepInputs
from .parallel_layers import Embedding, Head, ParallelLinear, RMSNorm, shard_evenly, sum_over_ranks


class MLP(nn.Module):
    """The gated feed-forward layer: down(silu(gate(x)) * up(x)), split over its inner width."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        rank, self.rank_num = config.rank_index, config.rank_num
        self.gate_proj = ParallelLinear(hidden, inner, shard_evenly(0, inner, rank, self.rank_num))
        self.up_proj = ParallelLinear(hidden, inner, shard_evenly(0, inner, rank, self.rank_num))
        self.down_proj = ParallelLinear(inner, hidden, shard_evenly(1, inner, rank, self.rank_num))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x float32 [n, hidden] to float32 [n, hidden]."""
        inner = silu_mul(self.gate_proj(x), self.up_proj(x))
        return sum_over_ranks(self.down_proj(inner), self.rank_num)


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each on the normalised stream and added to it."""

    def __init__(self, config: ModelConfig, attention: type[Attention]) -> None:
        super().__init__()
        self.self_attn = attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: torch.Tensor, added: torch.Tensor | None, kv_cache: torch.Tensor, step: StepInputs
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One layer; each addition to the stream is left to the norm that follows it, which computes both at once.

        Args:
            x: float32 [n, hidden], the stream without the last layer's result.
            added: float32 [n, hidden], that result; None before the first layer.
            kv_cache: cache pages of this layer.
            step: what attention needs to know.

        Returns:
            The stream without this layer's result, that result, and the updated cache pages.
        """
        x, normalised = self.input_layernorm(x, added)
        attended, kv_cache = self.self_attn(normalised, kv_cache, step)
        x, normalised = self.post_attention_layernorm(x, attended)
        return x, self.mlp(normalised), kv_cache


class Decoder(nn.Module):
    """Embedding, layers and final norm: the checkpoint's `model.*`."""

    def __init__(self, config: ModelConfig, attention: type[Attention], rotary: nn.Module | None) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, attention) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = rotary

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        seq_ids: torch.Tensor,
        page_table: torch.Tensor,
        kv_cache: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The normalised hidden state float32 [n, hidden] and every layer's updated cache pages."""
        rotary = None if self.rotary is None else self.rotary(position_ids)
        step = StepInputs(position_ids, seq_ids, page_table, rotary)
        x, added, updated = self.embed_tokens(input_ids), None, []
        for layer, pages in zip(self.layers, kv_cache, strict=True):
            x, added, pages = layer(x, added, pages, step)
            updated.append(pages)
        _, normalised = self.norm(x, added)
        return normalised, updated


class CausalLM(nn.Module):
    """One rank of a causal language model: subclasses name their attention, rotary embedding and head."""

    attention: type[Attention]
    rotary: type[nn.Module] | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        rotary = None if self.rotary is None else self.rotary(config)
        self.model = Decoder(config, self.attention, rotary)
        self.lm_head = self.make_head(config)
        if config.tie_word_embeddings:
            self.lm_head.tie("model.embed_tokens.weight")

    def make_head(self, config: ModelConfig) -> Head:
        """The output layer; families with another than a plain one override this."""
        return Head(config.hidden_size, config.vocab_size, config.rank_index, config.rank_num)

    @property
    def num_kv_slots(self) -> int:
        """Key/value heads in this rank's cache pages."""
        slots = self.model.layers[0].self_attn.num_kv_heads
        assert isinstance(slots, int), "every attention states its num_kv_heads"
        return slots

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        seq_ids: torch.Tensor,
        page_table: torch.Tensor,
        logits_index: torch.Tensor,
        kv_cache: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One step.

        Args:
            input_ids: int32 [n].
            position_ids: int32 [n].
            seq_ids: int32 [n].
            page_table: int32 [b, p].
            logits_index: int32 [m], the inserted slice: which tokens' logits are computed.
            kv_cache: per layer float16 [pages, 2, num_kv_slots, page_tokens, head_dim].

        Returns:
            Logits float32 [m, v], or [n, v] without `config.insert_slice`, and the updated cache pages.
        """
        x, updated = self.model(input_ids, position_ids, seq_ids, page_table, kv_cache)
        if self.config.insert_slice:
            x = torch.index_select(x, 0, logits_index)
        return self.lm_head(x), updated
