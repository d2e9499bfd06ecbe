"""What a correct file becomes: defaults, values, paths, places."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from fixture_types import Load

from vamc_compiler.config import (
    BackendConfig,
    BudgetConfig,
    BuildConfig,
    CompileOptions,
    FrontendConfig,
    ModelKwargs,
    ShapeConfig,
    TargetConfig,
    VerifyConfig,
    WorkspaceConfig,
    load_config,
)

MODEL_ZOO = {
    "name": "Baichuan2-13B-Chat-int8-tp4-1024-2048",
    "frontend": {
        "checkpoint": "/path/to/Baichuan2-13B-Chat",
        "type": "huggingface",
        "shape": {"input_ids": [[1024], [2048]]},
        "model_kwargs": {"tp": 4, "b2s": True, "model_arch": "vacc"},
        "quantize": {"type": "w8a16_gptq"},
    },
    "backend": {
        "type": "tvm_vacc",
        "dtype": "int8",
        "merge_params": True,
        "compile": {"data_type": 0, "gather_data_vccl_dsp_enable": True},
    },
    "workspace": {"path": "./vacc_deploy", "workers": 4},
}
CALIBRATION = {"type": "huggingface", "nsamples": 128, "name": "c4", "path": "allenai/c4", "seqlen": 1024}
ABSENT = object()


def changed(key: str, value: Any) -> dict[str, Any]:
    """MODEL_ZOO with one dotted key set, or removed."""
    data: dict[str, Any] = yaml.safe_load(yaml.safe_dump(MODEL_ZOO))
    *sections, last = key.split(".")
    section = data
    for name in sections:
        section = section.setdefault(name, {})
    if value is ABSENT:
        del section[last]
    else:
        section[last] = value
    return data


def test_minimal_file_gets_every_default(load: Load, tmp_path: Path) -> None:
    config = load()
    assert config == BuildConfig(
        name="demo",
        frontend=FrontendConfig(
            checkpoint=tmp_path / "in/model",
            shape=ShapeConfig(max_prefill_tokens=256, max_context_tokens=1024),
            model_kwargs=ModelKwargs(tp=2),
        ),
        backend=BackendConfig(dtype="fp16", target=TargetConfig(kind="llvm"), compile=CompileOptions()),
        workspace=WorkspaceConfig(path=tmp_path / "out/vacc_deploy"),
        source_path=tmp_path / "in/build.yaml",
    )
    assert config.warnings == ()


def test_config_is_frozen_hashable_and_crosses_processes(load: Load) -> None:
    config = load()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "other"  # type: ignore[misc]  # the very mistake
    assert hash(config) == hash(load())
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config
    assert copy.setting_sources == config.setting_sources


def test_sources_do_not_count_in_equality(load: Load, good: str) -> None:
    assert load(good) == load("# one line down\n" + good)
    assert load(good).setting_sources != load("# one line down\n" + good).setting_sources


# Values that published configs have, one row per key and value; every one loads.
@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("name", "glm-4-9b-hf-int8-tp4-1024-2048-kv8", lambda c: c.name),
        ("frontend.type", "huggingface", lambda c: c.frontend.type),
        ("frontend.type", ABSENT, lambda c: c.frontend.type),
        ("frontend.shape.input_ids", [[1024], [2048]], lambda c: c.frontend.shape.input_ids),
        ("frontend.shape.input_ids", [[512], []], lambda c: c.frontend.shape.input_ids),
        ("frontend.shape.input_ids", [[512], [512]], lambda c: c.frontend.shape.input_ids),
        ("frontend.model_kwargs.tp", 4, lambda c: c.frontend.model_kwargs.tp),
        ("frontend.model_kwargs.tp", 8, lambda c: c.frontend.model_kwargs.tp),
        ("frontend.model_kwargs.tp", ABSENT, lambda c: c.frontend.model_kwargs.tp),
        ("frontend.model_kwargs.b2s", True, lambda c: c.frontend.model_kwargs.b2s),
        ("frontend.model_kwargs.b2s", False, lambda c: c.frontend.model_kwargs.b2s),
        ("frontend.model_kwargs.model_arch", "vacc", lambda c: c.frontend.model_kwargs.model_arch),
        ("frontend.model_kwargs.model_arch", None, lambda c: c.frontend.model_kwargs.model_arch),
        ("frontend.model_kwargs.align_qkv", True, lambda c: c.frontend.model_kwargs.align_qkv),
        ("frontend.quantize.type", "w8a16_gptq", lambda c: c.frontend.quantize.type),
        ("frontend.quantize.type", "w16kv8", lambda c: c.frontend.quantize.type),
        ("frontend.quantize.type", "int8_per_channel", lambda c: c.frontend.quantize.type),
        ("frontend.quantize.device", "cuda:5", lambda c: c.frontend.quantize.device),
        (
            "frontend.quantize.calib_args.true_sequential",
            False,
            lambda c: c.frontend.quantize.calib_args.true_sequential,
        ),
        ("backend.type", "tvm_vacc", lambda c: c.backend.type),
        ("backend.type", ABSENT, lambda c: c.backend.type),
        ("backend.dtype", "int8", lambda c: c.backend.dtype),
        ("backend.merge_params", True, lambda c: c.backend.merge_params),
        ("backend.remove_params", False, lambda c: c.backend.remove_params),
        ("backend.compile.data_type", 0, lambda c: c.backend.compile.data_type),
        (
            "backend.compile.gather_data_vccl_dsp_enable",
            True,
            lambda c: c.backend.compile.gather_data_vccl_dsp_enable,
        ),
        ("backend.compile.stream_mode", True, lambda c: c.backend.compile.stream_mode),
        ("backend.compile.attention_split_num", 16, lambda c: c.backend.compile.attention_split_num),
        ("backend.compile.ffn_split_num", 4, lambda c: c.backend.compile.ffn_split_num),
        ("backend.compile.llm_build", True, lambda c: c.backend.compile.llm_build),
        ("backend.compile.enable_dense_to_matmul", True, lambda c: c.backend.compile.enable_dense_to_matmul),
        ("backend.target", {"kind": "llvm", "mcpu": ["znver4"]}, lambda c: c.backend.target),
        ("dataset", CALIBRATION, lambda c: c.dataset),
        ("dataset", CALIBRATION | {"name": "ceval", "seqlen": 128}, lambda c: c.dataset),
        ("dataset", CALIBRATION | {"name": "alpaca", "seqlen": 512}, lambda c: c.dataset),
        ("workspace.workers", 4, lambda c: c.workspace.workers),
        ("workspace.env_recheck", False, lambda c: c.workspace.env_recheck),
        ("workspace.pyenv", {"transformers": "4.51.3"}, lambda c: c.workspace.pyenv),
    ],
)
def test_model_zoo_values_load(load: Load, key: str, value: Any, read: Callable[[BuildConfig], object]) -> None:
    config = load(changed(key, value))
    if value is ABSENT:
        default = {"frontend.type": "huggingface", "frontend.model_kwargs.tp": 1, "backend.type": "tvm"}[key]
        assert read(config) == default
    elif isinstance(value, dict) and key != "workspace.pyenv":
        found = dataclasses.asdict(cast(Any, read(config)))
        expected = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
        if "path" in expected:
            expected["path"] = config.source_path.parent / value["path"]
        assert found == expected
    else:
        assert read(config) == value


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [("fp16", None)] * 27 + [("int8", "w8a16_gptq")] * 27 + [("int8", "w16kv8")] * 3 + [("fp16", "w16kv8")],
)
def test_model_zoo_precisions_load(load: Load, dtype: Any, quantization: Any) -> None:
    data = changed("backend.dtype", dtype)
    data["frontend"]["quantize"] = quantization and {"type": quantization}
    config = load(data)
    assert config.backend.dtype == dtype
    assert (config.frontend.quantize and config.frontend.quantize.type) == quantization


@pytest.mark.parametrize("written", ["on", "off", "auto", "'on'", '"off"'])
def test_on_and_off_are_texts_here(load: Load, good: str, written: str) -> None:
    """YAML 1.1 reads them as booleans."""
    config = load(f"{good}runtime:\n  huge_pages: {written}\n")
    assert config.runtime.huge_pages == written.strip("'\"")
    assert load(good, f"runtime.huge_pages={written}").runtime == config.runtime


def test_on_from_a_variable(load: Load, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGES", "on")
    assert load(good, "runtime.huge_pages=${PAGES}").runtime.huge_pages == "on"


@pytest.mark.parametrize(("written", "when"), [("off", "off"), ("'off'", "off"), ("compile", "compile")])
def test_verify_when(load: Load, good: str, written: str, when: str) -> None:
    assert load(f"{good}verify:\n  when: {written}\n").verify.when == when
    assert load(good, f"verify.when={written}").verify.when == when


def test_verify_text_is_an_input_path_or_none(load: Load, good: str, tmp_path: Path) -> None:
    assert load(good).verify == VerifyConfig()
    assert load(good + "verify: {text: sample.txt}\n").verify.text == tmp_path / "in/sample.txt"
    assert load(good + "verify: {text: sample.txt}\n", "verify.text=null").verify.text is None


@pytest.mark.parametrize("written", ["1e-5", "1E-5", "1.0e-05", "0.00001", ".00001", "+1e-5", "${KL}", '"${KL}"'])
def test_number_forms(load: Load, good: str, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    """YAML 1.1 reads half of them as texts."""
    monkeypatch.setenv("KL", "1e-5")
    config = load(f"{good}verify:\n  budget:\n    mean_kl: {written}\n")
    assert config.verify.budget == BudgetConfig(mean_kl=1e-5)
    assert load(good, f"verify.budget.mean_kl={written}").verify == config.verify


def test_whole_number_is_a_float_too(load: Load, good: str) -> None:
    budget = load(good, "verify.budget={same_top: 1, perplexity_ratio: 2, mean_kl: 0, block_error: ~}").verify.budget
    assert (budget.same_top, budget.perplexity_ratio, budget.mean_kl, budget.block_error) == (1.0, 2.0, 0.0, None)
    assert type(budget.same_top) is float


def test_exponent_without_point_stays_a_text_where_a_text_is_wanted(load: Load, good: str) -> None:
    assert load(good.replace("demo", "1e5")).name == "1e5"


def test_embedding_form_has_no_context_length(load: Load) -> None:
    shape = load(changed("frontend.shape.input_ids", [[512], []])).frontend.shape
    assert (shape.max_prefill_tokens, shape.max_context_tokens) == (512, None)


@pytest.mark.parametrize(
    "section", ["frontend.model_kwargs", "backend.target", "workspace", "dataset", "runtime", "verify"]
)
def test_section_with_all_keys_commented_out_is_absent(load: Load, section: str) -> None:
    data = changed(section, None)
    absent = changed(section, None)
    *parents, last = section.split(".")
    inner = absent
    for name in parents:
        inner = inner[name]
    del inner[last]
    assert dataclasses.replace(load(data), warnings=()) == dataclasses.replace(load(absent), warnings=())


def test_pyenv_keeps_versions_as_written(load: Load, good: str) -> None:
    config = load(good + "workspace:\n  pyenv: {a: 4.50, b: 1.10, c: 2024-01-01, d: ''}\n")
    assert config.workspace.pyenv == {"a": "4.50", "b": "1.10", "c": "2024-01-01", "d": ""}


def test_date_is_a_text(load: Load, good: str) -> None:
    assert load(good.replace("demo", "2024-01-01")).name == "2024-01-01"


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path, good: str) -> None:
    path = tmp_path / "build.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + good.replace("\n", "\r\n").encode())
    config = load_config(path)
    assert config.name == "demo"
    assert config.setting_sources["name"] == f"{path}:1:1"


def test_alias_is_read_at_its_target(load: Load, good: str) -> None:
    text = good.replace("model\n", "&m model\n") + "workspace:\n  path: *m\n"
    config = load(text)
    assert config.frontend.checkpoint.name == config.workspace.path.name == "model"


def test_inputs_start_at_the_file_and_outputs_at_the_shell(load: Load, tmp_path: Path, good: str) -> None:
    text = good.replace("checkpoint: model", "checkpoint: ../models/m") + (
        "dataset: {name: c4, path: data}\nworkspace: {path: ./deploy}\n"
    )
    config = load(text)
    assert config.frontend.checkpoint == tmp_path / "models/m"
    assert config.dataset is not None
    assert config.dataset.path == tmp_path / "in/data"
    assert config.workspace.path == tmp_path / "out/deploy"


def test_tilde_is_the_home_directory(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = load(good.replace("checkpoint: model", "checkpoint: ~/m") + "workspace: {path: ~/w}\n")
    assert config.frontend.checkpoint == tmp_path / "home/m"
    assert config.workspace.path == tmp_path / "home/w"


def test_relative_config_path_makes_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/build.yaml").write_text(good)
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("in/build.yaml"))
    assert config.source_path == tmp_path / "in/build.yaml"
    assert config.frontend.checkpoint == tmp_path / "in/model"
    assert config.setting_sources["backend.dtype"] == "in/build.yaml:9:3"


def test_checkpoint_need_not_exist(load: Load) -> None:
    assert not load().frontend.checkpoint.exists()
