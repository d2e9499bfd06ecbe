"""Building one rank of the model as a module, and reading off the list of its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vamc_compiler.model.config import ModelConfig
from vamc_compiler.model.registry import ModelSource
from vamc_compiler.parameters import FromValue, Origin, ParameterDType, ParameterSpec
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.torch_internals import FakeTensorMode

_DTYPES: dict[torch.dtype, ParameterDType] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int8: "int8",
}
_TORCH_DTYPES = {name: dtype for dtype, name in _DTYPES.items()}


def build_rank(source: ModelSource, config: ModelConfig, precision: ModelPrecision) -> nn.Module:
    """Instantiate the modeling file's class for the rank in `config`, quantized by module swap when asked.

    Weights that are not quantized have the type that `precision` names.

    Call it under `FakeTensorMode` to spend no memory on weights.
    """
    model: nn.Module = source.model_class()(config)
    if precision.scheme is not None and precision.scheme.layer is not None:
        quantizer = source.load("quantizer_vacc.py")
        count = quantizer.quantize(model, getattr(quantizer, precision.scheme.layer), lm_head=precision.lm_head)
        assert count, "a decoder has linear layers to quantize"
    if precision.unquantized != "float16":
        _store_as(_TORCH_DTYPES[precision.unquantized], model)
    return model.eval()


def _store_as(dtype: torch.dtype, model: nn.Module) -> None:
    """Replace float16 weights by others of the same shape; their values come later, from the checkpoint."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.dtype == torch.float16:
                setattr(module, name, nn.Parameter(torch.empty(weight.shape, dtype=dtype), requires_grad=False))


def _absolute(path: str, origin: Origin | FromValue) -> Origin | FromValue:
    """An origin with its tensors named as in the checkpoint rather than relative to the module."""
    if not isinstance(origin, Origin):
        return origin
    return origin.renamed(lambda name: name[1:] if name.startswith("/") else f"{path}.{name}".removeprefix("."))


def list_parameters(model: nn.Module) -> list[ParameterSpec]:
    """Every parameter and buffer of the rank, in the module's order, with its origin."""
    specs: list[ParameterSpec] = []
    for path, module in model.named_modules():
        own: dict[str, Any] = dict(module.named_parameters(recurse=False))
        own |= dict(module.named_buffers(recurse=False))
        origins: dict[str, Origin | FromValue] = getattr(module, "origins", {})
        for name, tensor in own.items():
            full_name = f"{path}.{name}".removeprefix(".")
            assert name in origins, (
                f"{full_name} has no origin: a modeling file declares where each parameter comes from"
            )
            origin = _absolute(path, origins[name])
            specs.append(ParameterSpec(full_name, tuple(tensor.shape), _DTYPES[tensor.dtype], origin))
    return specs


def list_ranks(source: ModelSource, num_ranks: int, precision: ModelPrecision) -> list[list[ParameterSpec]]:
    """The parameters of every rank, without a trace and without memory for weights."""
    with FakeTensorMode():
        return [
            list_parameters(build_rank(source, source.config.for_rank(rank, num_ranks), precision))
            for rank in range(num_ranks)
        ]
