"""The configs and the documentation that come with vamc."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fixture_types import ErrorOf, Load

from vamc_compiler.config import check_buildable, load_config
from vamc_compiler.config.fields import known_keys

ROOT = Path(__file__).parents[4]
SHIPPED = sorted((ROOT / "build_in/build").glob("*.yaml"))


def test_all_are_here() -> None:
    models = ("hf_baichuan", "hf_baichuan7b", "hf_llama")
    assert {f"{model}_{dtype}.yaml" for model in models for dtype in ("fp16", "int8")} <= {p.name for p in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_config_loads_builds_and_has_a_telling_name(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VAMC_CHECKPOINT", raising=False)
    monkeypatch.chdir(tmp_path)
    config = load_config(path)
    check_buildable(config)
    assert config.warnings == ()
    shape = config.frontend.shape
    tail = f"-{config.backend.dtype}-tp{config.frontend.model_kwargs.tp}-"
    assert config.name.endswith(f"{tail}{shape.max_prefill_tokens}-{shape.max_context_tokens}")
    assert config.name.lower().startswith(config.frontend.checkpoint.name)
    assert path.stem.endswith(config.backend.dtype)
    assert config.frontend.checkpoint.parent == ROOT / "build_in/checkpoints"
    assert config.workspace.path == tmp_path / "vacc_deploy"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_checkpoint_comes_from_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VAMC_CHECKPOINT", "mine")
    monkeypatch.chdir(tmp_path)
    assert load_config(path).frontend.checkpoint == tmp_path / "mine"


def documentation() -> str:
    return (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


def block(start: str) -> str:
    """The code block of the documentation that begins with a text."""
    return next(part for part in documentation().split("```") if part.lstrip("yamlsh").startswith(f"\n{start}"))


def test_every_key_is_documented() -> None:
    assert [key for key in known_keys() if f"`{key}`" not in documentation()] == []


def test_documented_config_is_right(load: Load) -> None:
    config = load(block("name:").removeprefix("yaml"))
    check_buildable(config)
    assert config.warnings == ()


def test_documented_error_is_what_is_printed(error_of: ErrorOf) -> None:
    text = """\
name: demo
frontend:
  checkpoint: model
  dtype: fp32
  shape:
    input_ids: [[250], [1024]]
  model_kwargs:
    tp: "4"
backend:
  dtype: int8
"""
    assert error_of(text) == block("build.yaml: 4 problems").strip()


def test_documented_warning_is_what_is_printed(load: Load, good: str) -> None:
    (warning,) = load(good.replace("tp: 2", "tp: 2\n\n    b2s: true")).warnings
    assert warning.endswith(block("build.yaml:9:5").strip())


def test_reading_a_config_needs_no_heavy_package() -> None:
    heavy = ("torch", "tvm", "tvm_ffi", "onnx", "transformers", "numpy")
    code = f"import sys, vamc_compiler.config; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
