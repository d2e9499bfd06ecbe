# SPDX-License-Identifier: Apache-2.0
"""Baichuan2-7B (rotary positions): the float32 reference for numerics tests, and what training uses.

Written for vamc to be read: full-sequence attention in plain torch, no cache, no options. Parameter names and
semantics are those of the published Baichuan2 checkpoints. Shapes: b batch, s sequence, h heads, d head width.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .configuration_baichuan import BaichuanConfig


ROPE_BASE = 10000.0


def rope_angles(length, head_dim):
    """[s, d]: position times frequency; the second half of the channels repeats the first."""
    frequency = ROPE_BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequency
    return torch.cat([angles, angles], dim=-1)


def rotate(states, angles):
    """Rotate each channel pair (i, i + d/2) of ``states`` [b, h, s, d] by its angle."""
    first, second = states.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (states.float() * angles.cos() + turned * angles.sin()).to(states.dtype)


def causal_mask(length):
    """[s, s]: 0, and the most negative float32 where the key lies in the future."""
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return torch.zeros(length, length).masked_fill(future, torch.finfo(torch.float32).min)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), scaled per channel."""

    def __init__(self, hidden_size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden):
        variance = hidden.float().pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden.float() * torch.rsqrt(variance + self.eps)).to(hidden.dtype)


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden):
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class BaichuanAttention(nn.Module):
    """Causal attention with rotary positions (RoPE); ``W_pack`` stacks the rows of q, k and v."""

    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden, angles, mask):
        batch, length, width = hidden.shape
        packed = self.W_pack(hidden).view(batch, length, 3, self.num_heads, self.head_dim)
        query, key, value = packed.permute(2, 0, 3, 1, 4)  # each [b, h, s, d]
        query, key = rotate(query, angles), rotate(key, angles)
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.head_dim) + mask
        weights = torch.softmax(scores.float(), dim=-1).to(value.dtype)
        return self.o_proj((weights @ value).transpose(1, 2).reshape(batch, length, width))


class DecoderLayer(nn.Module):
    """Attention and MLP, each after a norm and added to its input."""

    def __init__(self, config):
        super().__init__()
        self.self_attn = BaichuanAttention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden, angles, mask):
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), angles, mask)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class BaichuanPreTrainedModel(PreTrainedModel):
    config_class = BaichuanConfig
    base_model_prefix = "model"


class BaichuanModel(BaichuanPreTrainedModel):
    """Embedding, the layers, the last norm: input_ids [b, s] -> hidden [b, s, width]."""

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(self, input_ids):
        hidden = self.embed_tokens(input_ids)
        length = input_ids.shape[1]
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        angles = rope_angles(length, head_dim).to(hidden.device)
        mask = causal_mask(length).to(hidden.device)
        for layer in self.layers:
            hidden = layer(hidden, angles, mask)
        return self.norm(hidden)


class NormHead(nn.Module):
    """Logits against output rows of unit length; the scale of the logits comes from the last norm alone."""

    def __init__(self, hidden_size, vocab_size):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, hidden):
        return F.linear(hidden, F.normalize(self.weight, dim=-1))


class BaichuanForCausalLM(BaichuanPreTrainedModel):
    """input_ids [b, s] -> logits [b, s, vocab]; with ``labels`` [b, s] also the mean next-token loss.

    Rows must not be padded: ``attention_mask`` and every other argument is ignored.
    """

    def __init__(self, config):
        super().__init__(config)
        self.model = BaichuanModel(config)
        self.lm_head = NormHead(config.hidden_size, config.vocab_size)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding, NormHead)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)

    def forward(self, input_ids, labels=None, **_unused):
        logits = self.lm_head(self.model(input_ids))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)
