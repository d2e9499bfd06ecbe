"""Checkpoints whose weights are quantized already: told by their files, and refused before any work.

The compiler quantizes by itself, from the original weights; packed integers read as weights would be another model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vamc_compiler.show import describe_json, one_line
from vamc_runtime.errors import UserError

# Files that quantizers leave beside the weights -> whose they are.
_FILES = {
    "quantize_config.json": "GPTQ (AutoGPTQ)",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "NVIDIA ModelOpt",
    "quant_model_description.json": "msModelSlim",
    "quant_model_description_w8a8.json": "msModelSlim",
}
# Ends of tensor names -> what they belong to.
_TENSORS = {
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".g_idx": "GPTQ",
    ".weight_packed": "compressed-tensors",
    ".weight_zero_point": "compressed-tensors",
    ".weight_shape": "compressed-tensors",
    ".weight_scale_inv": "fp8",
    ".weight_scale": "fp8 or compressed-tensors",
    ".weight_offset": "msModelSlim",
    ".deq_scale": "msModelSlim",
    ".quant_bias": "msModelSlim",
    ".SCB": "bitsandbytes",
    ".weight.absmax": "bitsandbytes",
    ".weight.quant_map": "bitsandbytes",
}
_EXPECTED = "the original weights, in float32, float16 or bfloat16"
_FIX = "take the checkpoint that it was made from, and let vamc quantize: frontend.quantize.type"


def check_not_quantized(directory: Path, raw: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint whose files say that its weights are quantized.

    Args:
        directory: the checkpoint.
        raw: its config.json.
        path: where that was read.

    Raises:
        UserError: names the method.
    """
    for key in ("quantization_config", "compression_config"):
        if raw.get(key) is not None:
            raise _refusal(f"{path} has a {key!r}", _method(raw[key]))
    if raw.get("quantization"):
        raise _refusal(
            f"{path} has the key 'quantization'", _method({"quant_method": "MLX", **_mapping(raw["quantization"])})
        )
    if raw.get("quantize"):  # "w8a8" or "w8a16"; "" where nothing is quantized
        raise _refusal(f"{path} has the key 'quantize'", describe_json(raw["quantize"]))
    for name, method in _FILES.items():
        if (directory / name).is_file():
            raise _refusal(f"{directory} holds {name}", method, f"; if the weights are not, remove {name}")


def check_no_quantized_tensors(directory: Path, names: Iterable[str]) -> None:
    """Refuse a checkpoint that stores packed weights, whatever its config.json says.

    Raises:
        UserError: names a tensor and the method it belongs to.
    """
    for name in names:
        for end, method in _TENSORS.items():
            if name.endswith(end):
                raise _refusal(f"{directory} stores the tensor {one_line(name)}", method)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _method(settings: object) -> str:
    """How a `quantization_config` quantizes, in words."""
    if not isinstance(settings, Mapping):
        return describe_json(settings)
    method = settings.get("quant_method")
    if method is None and any(settings.get(key) for key in ("load_in_8bit", "load_in_4bit")):
        method = "bitsandbytes"
    words = "an unnamed method" if method is None else one_line(str(method))
    bits = settings.get("bits", settings.get("w_bit"))
    return f"{words}, {one_line(str(bits))} bits" if isinstance(bits, int | str) else words


def _refusal(where: str, method: str, more: str = "") -> UserError:
    return UserError(f"the checkpoint is quantized already ({method}): {where}", expected=_EXPECTED, fix=_FIX + more)
