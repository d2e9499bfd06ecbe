"""Layers that know their part of the model: each states how its tensors are sharded, as data.

Dimension letters: n tokens, i input width, o output width (both the rank's), v vocabulary.
Weights are held in `WEIGHT_DTYPE`; activations and arithmetic are float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vamc_compiler.ops import add_rms_norm, all_gather, all_reduce, embedding, linear, rms_norm
from vamc_compiler.parameters import FromValue, Origin, declare, from_tensor
from vamc_compiler.sharding import HeadLayout, Shard, lay_out_heads, shard_evenly, shard_units
from vamc_compiler.transforms import UNIT_ROWS

WEIGHT_DTYPE = torch.float16


class ParallelLinear(nn.Module):
    """A linear layer without bias whose weight [o, i] is this rank's part of the full one.

    A split of dim 0 is column-parallel: every rank computes some outputs. A split of dim 1 is row-parallel: every
    rank sees a part of x and computes a summand of all outputs, and the caller adds `sum_over_ranks`.
    """

    def __init__(self, in_features: int, out_features: int, shard: Shard | None = None) -> None:
        super().__init__()
        shape = (out_features, in_features)
        self.is_row_parallel = shard is not None and shard.dim == 1 and shard.is_part
        if shard is not None:
            shape = (shard.local, in_features) if shard.dim == 0 else (out_features, shard.local)
        self.weight = nn.Parameter(torch.empty(shape, dtype=WEIGHT_DTYPE), requires_grad=False)
        declare(self, weight=from_tensor("weight", shard))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x float32 [n, i] to float32 [n, o]."""
        return linear(x, self.weight)


def sum_over_ranks(x: torch.Tensor, rank_num: int) -> torch.Tensor:
    """Complete a row-parallel layer: the sum of x float32 [n, o] over the ranks."""
    return x if rank_num == 1 else all_reduce(x)


class AttentionShards:
    """The shard rules of one attention layer: which heads this rank computes, and their rows and columns."""

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int, rank: int, rank_num: int) -> None:
        self.layout: HeadLayout = lay_out_heads(num_heads, num_kv_heads, rank_num)
        self.query_heads = self.layout.query_heads(rank)
        self.kv_heads = self.layout.kv_heads(rank)
        self.query = shard_units(0, self.layout.query_sources(rank), head_dim, full=num_heads * head_dim)
        self.key_value = shard_units(0, self.kv_heads, head_dim, full=num_kv_heads * head_dim)
        self.output = shard_units(1, self.query_heads, head_dim, full=num_heads * head_dim)
        packed = [None if head is None else third * num_heads + head for third in range(3) for head in self.query_heads]
        self.packed_qkv = shard_units(0, packed, head_dim, full=3 * num_heads * head_dim)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a float32 weight, the same on every rank."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size), requires_grad=False)
        self.eps = eps
        declare(self, weight=from_tensor("weight"))

    def forward(self, x: torch.Tensor, added: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual stream x float32 [n, hidden], plus `added` when given, as it is and normalised."""
        if added is None:
            return x, rms_norm(x, self.weight, self.eps)
        return add_rms_norm(x, added, self.weight, self.eps)


class Embedding(nn.Module):
    """The token embedding [v, hidden], whole on every rank: a look-up reads one row, so splitting saves no time."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        weight = torch.empty(vocab_size, hidden_size, dtype=WEIGHT_DTYPE)
        self.weight = nn.Parameter(weight, requires_grad=False)
        declare(self, weight=from_tensor("weight"))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Look up input_ids int32 [n]; returns float32 [n, hidden]."""
        return embedding(input_ids, self.weight)


class Head(nn.Module):
    """The vocabulary-parallel output layer: this rank's logits, gathered to all."""

    def __init__(self, hidden_size: int, vocab_size: int, rank: int, rank_num: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.rank_num = rank_num
        self.shard = shard_evenly(0, vocab_size, rank, rank_num)
        weight = torch.empty(self.shard.local, hidden_size, dtype=WEIGHT_DTYPE)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.projection: nn.Module | None = None
        declare(self, weight=from_tensor("weight", self.shard))

    def tie(self, tensor: str) -> None:
        """Read the weight from another tensor (`tie_word_embeddings`); the name is relative to the model."""
        weight = self.origins["weight"]
        assert isinstance(weight, Origin), "a head's weight comes from the checkpoint"
        declare(self, weight=weight.renamed(lambda _: f"/{tensor}"))

    def take_projection(self, projection: nn.Module) -> None:
        """Compute logits with `projection`, which has the weight from now on."""
        self.projection = projection
        del self.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x float32 [m, hidden] to logits float32 [m, v]."""
        logits = linear(x, self.weight) if self.projection is None else self.projection(x)
        if self.rank_num == 1:
            return logits
        # The last ranks may be padded: drop the columns beyond the true vocabulary.
        return all_gather(logits, self.rank_num)[:, : self.vocab_size]


class NormHead(Head):
    """Baichuan2's head: rows of the weight have unit length.

    They are normalised once, over the whole hidden dimension and before any split, when weights are written; doing
    it per step would read the largest tensor of the model twice.
    """

    def __init__(self, hidden_size: int, vocab_size: int, rank: int, rank_num: int) -> None:
        super().__init__(hidden_size, vocab_size, rank, rank_num)
        declare(self, weight=from_tensor("weight", self.shard, UNIT_ROWS))


def add_constant(module: nn.Module, name: str, value: npt.NDArray[np.float32]) -> None:
    """Register a buffer that is computed here rather than read: data of the rank, not of the graph."""
    module.register_buffer(name, torch.tensor(value.tolist(), dtype=torch.float32), persistent=False)
    declare(module, **{name: FromValue(value.astype(np.float32))})
