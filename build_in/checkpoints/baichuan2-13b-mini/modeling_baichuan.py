# SPDX-License-Identifier: Apache-2.0
"""Baichuan2-13B (ALiBi): the float32 reference for numerics tests, and what training uses.

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


def alibi_slopes(num_heads):
    """One slope per head: 2^(-8/n), 2^(-16/n), ... for the power of two n next below, then, for the heads that are
    left, every second slope (the first, third, ...) of the sequence for 2n."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-8 * (2 * i + 1) / (2 * power)) for i in range(num_heads - power)]
    return torch.tensor(slopes, dtype=torch.float32)


def alibi_mask(num_heads, length):
    """[h, s, s]: slope times the absolute index of the key, -inf where the key lies in the future."""
    bias = alibi_slopes(num_heads)[:, None, None] * torch.arange(length, dtype=torch.float32)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return bias.expand(num_heads, length, length).masked_fill(future, -math.inf)


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
    """Causal attention with linear position biases (ALiBi); ``W_pack`` stacks the rows of q, k and v."""

    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden, mask):
        batch, length, width = hidden.shape
        packed = self.W_pack(hidden).view(batch, length, 3, self.num_heads, self.head_dim)
        query, key, value = packed.permute(2, 0, 3, 1, 4)  # each [b, h, s, d]
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

    def forward(self, hidden, mask):
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), mask)
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
        mask = alibi_mask(self.config.num_attention_heads, length).to(hidden.device)
        for layer in self.layers:
            hidden = layer(hidden, mask)
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
