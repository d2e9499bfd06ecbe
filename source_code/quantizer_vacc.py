"""int8_per_channel by module swap: the linear layers of every decoder layer, not the embedding and not the head.

Symmetric, one scale per output channel: scale[o] = max |row o| / 127 (1 for a row of zeros), quant = the nearest
whole number of row / scale, ties to even. The scale is that of the full row, before a row-parallel layer splits its
columns: every tensor-parallel degree then computes with the same weights. Semantics of `quantizer_vacc.py` in
Vastai/VastModelZOO (43aff36b, llm/baichuan2/build_in/source_code).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from vamc_compiler.ops import quantized_linear_per_channel
from vamc_compiler.parameters import FromCheckpoint, declare

from .parallel_layers import ParallelLinear


class QuantizedLinearPerChannel(nn.Module):
    """A `ParallelLinear` with an int8 weight [o, i] and a float32 scale [o]."""

    quant_w: torch.Tensor
    scale_w: torch.Tensor

    def __init__(self, layer: ParallelLinear) -> None:
        super().__init__()
        self.register_buffer("quant_w", torch.empty(layer.weight.shape, dtype=torch.int8))
        self.register_buffer("scale_w", torch.empty(layer.weight.shape[0]))
        weight = layer.origins["weight"]
        assert isinstance(weight, FromCheckpoint), "a linear layer's weight comes from the checkpoint"
        declare(
            self,
            quant_w=replace(weight, steps=(*weight.steps, "quantize_rows")),
            scale_w=replace(weight, steps=(*weight.steps, "row_scales")),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x float32 [n, i] to float32 [n, o]."""
        return quantized_linear_per_channel(x, self.quant_w, self.scale_w)


def quantize(model: nn.Module) -> int:
    """Swap every `ParallelLinear` below `model` for its quantized form; returns how many."""
    count = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, ParallelLinear):
                setattr(parent, name, QuantizedLinearPerChannel(layer))
                count += 1
    return count
