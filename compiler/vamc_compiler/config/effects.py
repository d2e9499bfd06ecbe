"""Keys that load and change nothing. Each one that was given is told to the user, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vamc_compiler.quantization import SCHEMES, Scheme

from .problems import Place
from .rules import DTYPE_KEY, TYPE_KEY

Values = Mapping[str, Any]  # settings by dotted key

_VACC = "it steers VACC cards, and this target has none"

# Dotted key -> why it has no effect, or a function that says so for the values at hand (empty: it has one).
NO_EFFECT: Mapping[str, str | Callable[[Values], str]] = {
    "frontend.model_kwargs.b2s": "the runtime forms its batches from the requests it has",
    "frontend.model_kwargs.align_qkv": "heads are padded or repeated whenever tp requires it",
    "frontend.quantize.lm_head": lambda values: _unless_weights_are_quantized(values),
    "frontend.quantize.device": "quantization runs on the CPU",
    "frontend.quantize.calib_args": lambda values: _unless_they_steer(values),
    "backend.type": lambda values: _VACC if values.get("backend.type") == "tvm_vacc" else "",
    "backend.merge_params": "the parameters of a rank are always one file",
    "backend.remove_params": "the parameters are always outside the library",
    "backend.compile.prefill_precision": lambda values: _unless_fp16(values),
    "backend.compile.data_type": f"{_VACC}; weights have the type of backend.dtype",
    "backend.compile.gather_data_vccl_dsp_enable": _VACC,
    "backend.compile.stream_mode": _VACC,
    "backend.compile.attention_split_num": _VACC,
    "backend.compile.ffn_split_num": _VACC,
    "backend.compile.llm_build": _VACC,
    "backend.compile.enable_dense_to_matmul": _VACC,
    "dataset": lambda values: _unless_calibrating(values),
    "workspace.env_recheck": "the build runs in the Python environment it was started in",
    "workspace.pyenv": "the build runs in the Python environment it was started in",
}


def find_warnings(values: Values, places: Mapping[str, Place]) -> Iterator[str]:
    """One line for each given key without effect, with its place."""
    for key, place in places.items():
        reason = NO_EFFECT.get(key, "")
        why = reason(values) if callable(reason) else reason
        if why:
            yield f"{place}: {key} has no effect: {why}"


def _scheme(values: Values) -> Scheme | None:
    """The quantization that is asked for, where it is a known one."""
    return SCHEMES.get(values.get(TYPE_KEY, ""))


def _unless_they_steer(values: Values) -> str:
    scheme = _scheme(values)
    steered = scheme is not None and scheme.reads_calib_args
    return "" if steered else f"it has no calibration to steer in {values.get(TYPE_KEY)}"


def _unless_calibrating(values: Values) -> str:
    if values.get("dataset") is None and "dataset.name" not in values:
        return ""  # `dataset: null`
    scheme = _scheme(values)
    if scheme is None:
        return "nothing is quantized"
    return "" if scheme.reads_dataset else f"{scheme.name} does not calibrate"


def _unless_weights_are_quantized(values: Values) -> str:
    scheme = _scheme(values)
    return "" if scheme is None or scheme.rounds_weights else f"{scheme.name} leaves all weights in 16 bits"


def _unless_fp16(values: Values) -> str:
    """Why `prefill_precision` changes nothing."""
    if values.get("backend.compile.prefill_precision") is None:
        return ""
    quantization = values.get(TYPE_KEY)
    if quantization is not None:
        return f"the arithmetic of a prefill follows from {quantization}"
    return f"{DTYPE_KEY}: bf16 computes a prefill in bf16" if values.get(DTYPE_KEY) == "bf16" else ""
