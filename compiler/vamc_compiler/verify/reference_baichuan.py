"""Baichuan and Baichuan2 in plain torch, float32: what a compiled Baichuan is measured against.

transformers has no Baichuan class, and the code that the published checkpoints carry runs only when the user trusts it.
This file is written from the published description and shares nothing with the modeling files in source_code/: a
mistake there cannot hide by being repeated here. Parameters have the names of the published tensors. No cache, no
rank, no quantization: every token of a sequence at once.

Semantics (https://huggingface.co/baichuan-inc, technical report https://arxiv.org/abs/2309.10305):
- The layers are LLaMA's, with query, key and value projected by one matrix `W_pack`.
- 7B rotates queries and keys (RoPE, halves rotated against one another, base 10000). 13B adds ALiBi biases to the
  scores instead (https://arxiv.org/abs/2108.12409). Only 7B configurations have `max_position_embeddings`.
- Baichuan2 divides each row of the head by its length. Baichuan1 does not. The checkpoint's code shows which it is;
  `z_loss_weight` is a key of Baichuan2's configuration class, `BaiChuanForCausalLM` the class of the first Baichuan-7B.

Dimension letters: b sequences, t tokens, h heads, d width of a head, c width of the residual stream, v vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vamc_compiler.model.config import ModelConfig

MAX_CODE_BYTES = 1 << 20
"""Ten times the size of any modeling file."""
ROPE_BASE = 10000.0
"""Fixed in the published code; no configuration changes it."""


def alibi_slopes(num_heads: int) -> list[float]:
    """The slope of each head, for any number of heads (ALiBi paper, section 3 and its reference code).

    For a power of two n they are 2^(-8/n), 2^(-16/n), ..., 2^-8. Otherwise those of the power of two below, followed
    by every second one of the power of two above, starting with its first.
    """
    below: int = 2 ** int(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (head + 1) / below) for head in range(below)]
    if below < num_heads:
        between = [2.0 ** (-8 * (head + 1) / (2 * below)) for head in range(0, 2 * below, 2)]
        slopes += between[: num_heads - below]
    return slopes


def alibi_bias(num_heads: int, num_tokens: int) -> torch.Tensor:
    """What is added to the scores, [h, t of the query, t of the key]: minus the slope for each token in between."""
    position = torch.arange(num_tokens, dtype=torch.float32)
    distance = position[None, :] - position[:, None]
    return torch.tensor(alibi_slopes(num_heads), dtype=torch.float32)[:, None, None] * distance


def rotate(x: torch.Tensor) -> torch.Tensor:
    """RoPE on [b, h, t, d]: element i of the first half and of the second turn together, by t * base^(-2i/d)."""
    num_tokens, width = x.shape[-2:]
    exponent = torch.arange(0, width, 2, dtype=torch.float32) / width
    angle = torch.arange(num_tokens, dtype=torch.float32)[:, None] / ROPE_BASE**exponent
    first, second = x.chunk(2, dim=-1)
    turned = (first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin())
    return torch.cat(turned, dim=-1)


class RMSNorm(nn.Module):
    """x / root mean square of x, times a weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, t, c] in and out."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Causal self-attention over the whole sequence."""

    def __init__(self, config: ModelConfig, *, rotary: bool) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.rotary = rotary
        self.W_pack = nn.Linear(width, 3 * width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, t, c] in and out."""
        num_tokens = x.shape[1]
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.W_pack(x).chunk(3, dim=-1)
        )
        if self.rotary:
            query, key = rotate(query), rotate(key)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if not self.rotary:
            scores = scores + alibi_bias(self.num_heads, num_tokens)
        future = torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
        result: torch.Tensor = self.o_proj((weights @ value).transpose(1, 2).flatten(2))
        return result


class MLP(nn.Module):
    """The gated feed-forward layer: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, t, c] in and out."""
        result: torch.Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return result


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig, *, rotary: bool) -> None:
        super().__init__()
        self.self_attn = Attention(config, rotary=rotary)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, t, c] in and out."""
        x = x + self.self_attn(self.input_layernorm(x))
        result: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return result


class Decoder(nn.Module):
    """Embedding, layers, last norm."""

    def __init__(self, config: ModelConfig, *, rotary: bool) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, rotary=rotary) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Ids [b, t] to [b, t, c]."""
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x)
        result: torch.Tensor = self.norm(x)
        return result


class NormHead(nn.Linear):
    """A head whose rows have unit length, at least 1e-12 taken as their length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, t, c] to logits [b, t, v]."""
        return functional.linear(x, functional.normalize(self.weight, dim=-1, eps=1e-12))


def published_norm_head(directory: Path, raw: Mapping[str, Any]) -> bool | None:
    """Whether the head of a checkpoint is normalised, as its files say; None where they do not, or contradict.

    Read from the text of the code and from config.json, without the compiler's own reading (model/norm_head.py).
    """
    said = set()
    for path in directory.glob("modeling_*.py"):
        if not path.is_file() or path.stat().st_size > MAX_CODE_BYTES:
            continue
        code = re.sub(r"#.*", "", path.read_text(encoding="utf-8", errors="replace"))
        said |= {head == "NormHead" for head in re.findall(r"self\.lm_head\s*=\s*(?:\w+\.)*(\w+)\(", code)}
    if raw.get("z_loss_weight") is not None:
        said.add(True)
    if "BaiChuanForCausalLM" in f"{raw.get('architectures')} {raw.get('auto_map')}":
        said.add(False)
    return said.pop() if len(said) == 1 else None


class BaichuanReference(nn.Module):
    """The whole model.

    Args:
        config: sizes, and config.json itself, which tells 7B from 13B.
        norm_head: whether the rows of the head have unit length.
    """

    def __init__(self, config: ModelConfig, *, norm_head: bool) -> None:
        super().__init__()
        rotary = config.raw.get("max_position_embeddings") is not None
        head: Any = NormHead if norm_head else nn.Linear
        self.model = Decoder(config, rotary=rotary)
        self.lm_head = head(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Ids int64 [b, t] to logits float32 [b, t, v]."""
        result: torch.Tensor = self.lm_head(self.model(input_ids))
        return result
