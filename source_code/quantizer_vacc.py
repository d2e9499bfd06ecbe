"""Quantization by module swap: the linear layers of every decoder layer, the head when asked, never the embedding.

Weights are symmetric int8, one scale per output channel: scale[o] = max |row o| / 127 (1 for a row of zeros), quant =
the nearest whole number of row / scale, ties to even. The scale is that of the full row, before a row-parallel layer
splits its columns: every tensor-parallel degree then computes with the same weights. Semantics of `quantizer_vacc.py`
in Vastai/VastModelZOO (43aff36b, llm/baichuan2/build_in/source_code).

Which scheme swaps in which layer is said in `vamc_compiler.quantization`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from vamc_compiler.ops import all_reduce_max, quantized_linear_dynamic, quantized_linear_per_channel, row_max
from vamc_compiler.parameters import Origin, declare
from vamc_compiler.transforms import QUANT, SCALE, AsStored, Int8Rows, UnitRows

from .parallel_layers import Head, ParallelLinear


class QuantizedLinearPerChannel(nn.Module):
    """A layer's int8 weight [o, i] and float32 scale [o]; exact activations.

    Args:
        layer: the layer whose weight it takes over.
        path: the layer's, where this module does not take its place.
    """

    quant_w: torch.Tensor
    scale_w: torch.Tensor

    def __init__(self, layer: ParallelLinear | Head, path: str | None = None) -> None:
        super().__init__()
        self.is_row_parallel = isinstance(layer, ParallelLinear) and layer.is_row_parallel
        self.register_buffer("quant_w", torch.empty(layer.weight.shape, dtype=torch.int8))
        self.register_buffer("scale_w", torch.empty(layer.weight.shape[0]))
        weight = layer.origins["weight"]
        assert isinstance(weight, Origin), "a linear layer's weight comes from the checkpoint"
        assert isinstance(weight.transform, AsStored | UnitRows), "what is quantized twice fits no checkpoint"
        if path is not None:
            weight = weight.renamed(lambda name: name if name.startswith("/") else f"/{path}.{name}")
        quantized = replace(weight, transform=Int8Rows(weight.transform))
        declare(self, quant_w=replace(quantized, output=QUANT), scale_w=replace(quantized, output=SCALE))

    def shared_top(self, x: torch.Tensor) -> torch.Tensor | None:
        """The largest magnitude float32 [n, 1] of each row of which x is this rank's part; None for whole rows."""
        return all_reduce_max(row_max(x)) if self.is_row_parallel else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x float32 [n, i] to float32 [n, o]."""
        return quantized_linear_per_channel(x, self.quant_w, self.scale_w, self.shared_top(x))


class QuantizedLinearDynamic(QuantizedLinearPerChannel):
    """The same weight; activations are rounded to int8, one scale per token."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x float32 [n, i] to float32 [n, o]."""
        return quantized_linear_dynamic(x, self.quant_w, self.scale_w, self.shared_top(x))


def quantize(model: nn.Module, kind: type[QuantizedLinearPerChannel], *, lm_head: bool) -> int:
    """Swap every `ParallelLinear` below `model` for a `kind`, and the head's weight when asked; returns how many."""
    count = 0
    for path, parent in list(model.named_modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, ParallelLinear):
                setattr(parent, name, kind(layer))
                count += 1
            elif isinstance(layer, Head) and lm_head:
                layer.take_projection(kind(layer, f"{path}.{name}".removeprefix(".")))
                count += 1
    return count
