"""The models that are compared: LLaMA architectures with random weights, because speed does not depend on values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one LLaMA model, named as in its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int = 32000

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_parameters(self) -> int:
        """Weights of the whole model, embedding and head included, norms left out."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_attention_heads + self.num_key_value_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * layer + 2 * self.vocab_size * self.hidden_size


SHAPES = {
    "mha2048": Shape(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=32,
    ),
    "mha4096": Shape(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=6,  # the width of 7B models, cut to the memory of the first shape
        num_attention_heads=32,
        num_key_value_heads=32,
    ),
    "gqa1536": Shape(
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
    ),
}
