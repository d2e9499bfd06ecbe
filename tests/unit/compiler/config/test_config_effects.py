"""Keys that have no effect say so once, with their place; keys that have one stay silent."""

from __future__ import annotations

import pytest
from fixture_types import Load

from vamc_compiler.config.effects import NO_EFFECT
from vamc_compiler.config.fields import known_keys


def test_every_listed_key_exists() -> None:
    assert set(NO_EFFECT) <= set(known_keys())


@pytest.mark.parametrize(
    "override",
    [
        "frontend.model_kwargs.b2s=false",
        "frontend.model_kwargs.align_qkv=true",
        "backend.type=tvm_vacc",
        "backend.merge_params=true",
        "backend.remove_params=false",
        "backend.compile.data_type=0",
        "backend.compile.gather_data_vccl_dsp_enable=true",
        "backend.compile.stream_mode=true",
        "backend.compile.attention_split_num=16",
        "backend.compile.ffn_split_num=16",
        "backend.compile.llm_build=true",
        "backend.compile.enable_dense_to_matmul=true",
        "workspace.env_recheck=false",
        "workspace.pyenv={transformers: 4.51.3}",
        "dataset={name: c4, path: x}",
    ],
)
def test_one_warning_with_place_and_reason(load: Load, good: str, override: str) -> None:
    (warning,) = load(good, override).warnings
    key = override.partition("=")[0]
    assert warning.startswith(f"--set {override}: {key} has no effect: ")


@pytest.mark.parametrize(
    "override",
    [
        "frontend.model_kwargs.tp=1",
        "frontend.model_kwargs.model_arch=vacc",
        "frontend.type=huggingface",
        "backend.type=tvm",
        "backend.target.mcpu=[znver4]",
        "workspace.workers=2",
        "dataset=null",
        "backend.compile.prefill_precision=bf16",
        "backend.compile.prefill_precision=null",
        "runtime.huge_pages=off",
        "verify.when=off",
        "verify.tokens=64",
        "verify.budget.mean_kl=1e-4",
    ],
)
def test_keys_with_an_effect_are_silent(load: Load, good: str, override: str) -> None:
    assert load(good, override).warnings == ()


@pytest.mark.parametrize(
    ("quantization", "warned"),
    [
        ("int8_per_channel", ["frontend.quantize.device", "frontend.quantize.calib_args", "dataset"]),
        ("w8a8_dynamic", ["frontend.quantize.device", "frontend.quantize.calib_args", "dataset"]),
        ("w8a16_gptq", ["frontend.quantize.device"]),
        ("w16kv8", ["frontend.quantize.device", "frontend.quantize.calib_args"]),
    ],
)
def test_calibration_matters_only_where_there_is_one(
    load: Load, good: str, quantization: str, warned: list[str]
) -> None:
    quantize = f"{{type: {quantization}, device: cuda:5, calib_args: {{true_sequential: false}}}}"
    text = good.replace("backend:", f"  quantize: {quantize}\nbackend:").replace("fp16", "int8")
    config = load(text + "dataset: {name: c4, path: x}\n")
    assert [line.split(": ")[1].split(" has")[0] for line in config.warnings] == warned


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["backend.dtype=bf16"], "backend.dtype: bf16 computes a prefill in bf16"),
        (
            ["backend.dtype=int8", "frontend.quantize.type=w8a8_dynamic"],
            "the arithmetic of a prefill follows from w8a8_dynamic",
        ),
    ],
)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_prefill_precision_is_for_fp16_weights(
    load: Load, good: str, overrides: list[str], reason: str, precision: str
) -> None:
    key = "backend.compile.prefill_precision"
    (warning,) = load(good, *overrides, f"{key}={precision}").warnings
    assert warning == f"--set {key}={precision}: {key} has no effect: {reason}"


@pytest.mark.parametrize(("quantization", "num_warnings"), [("w8a8_dynamic", 0), ("w8a16_gptq", 0), ("w16kv8", 1)])
def test_lm_head_matters_where_weights_are_quantized(
    load: Load, good: str, quantization: str, num_warnings: int
) -> None:
    quantize = f"frontend.quantize={{type: {quantization}, lm_head: true}}"
    assert len(load(good, quantize, "backend.dtype=int8").warnings) == num_warnings


def test_warning_of_a_file_has_line_and_column(load: Load, good: str) -> None:
    (warning,) = load(good.replace("tp: 2", "tp: 2\n    b2s: true")).warnings
    assert "build.yaml:8:5: frontend.model_kwargs.b2s has no effect: the runtime forms its batches" in warning
