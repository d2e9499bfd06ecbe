"""`--set key=value`."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import ErrorOf, Load


def test_values_are_yaml(load: Load, good: str) -> None:
    config = load(
        good,
        "frontend.model_kwargs.tp=4",
        "frontend.shape.input_ids=[[512], [2048]]",
        "backend.target.mcpu=[x86-64-v3, znver4]",
        "frontend.quantize={type: int8_per_channel}",
        "backend.dtype=int8",
        "name=a=b",
    )
    assert config.frontend.model_kwargs.tp == 4
    assert config.frontend.shape.input_ids == [[512], [2048]]
    assert config.backend.target.mcpu == ("x86-64-v3", "znver4")
    assert config.frontend.quantize is not None
    assert config.frontend.quantize.type == "int8_per_channel"
    assert config.name == "a=b"


def test_missing_sections_are_made(load: Load) -> None:
    config = load(
        "# nothing but overrides\nfrontend:\n",
        "name=n",
        "frontend.checkpoint=m",
        "frontend.shape.input_ids=[[16],[16]]",
        "backend.dtype=fp16",
    )
    assert (config.name, config.frontend.shape.max_context_tokens) == ("n", 16)


def test_last_one_wins(load: Load, good: str) -> None:
    assert load(good, "name=a", "name=b").name == "b"


def test_null_removes_an_optional_section(load: Load, good: str) -> None:
    text = good.replace("fp16", "int8").replace("backend:", "  quantize: {type: int8_per_channel}\nbackend:")
    config = load(text, "frontend.quantize=null", "backend.dtype=fp16")
    assert config.frontend.quantize is None


def test_replaced_value_is_not_checked(load: Load, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    assert load(good.replace("tp: 2", "tp: ${UNSET}"), "frontend.model_kwargs.tp=3").frontend.model_kwargs.tp == 3


def test_paths_are_relative_to_the_shell(load: Load, good: str, tmp_path: Path) -> None:
    config = load(good, "frontend.checkpoint=m", "workspace.path=w")
    assert config.frontend.checkpoint == tmp_path / "out/m"
    assert config.workspace.path == tmp_path / "out/w"


def test_variables_expand(load: Load, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TP", "8")
    assert load(good, "frontend.model_kwargs.tp=${TP}").frontend.model_kwargs.tp == 8


def test_free_names_below_pyenv(load: Load, good: str) -> None:
    assert load(good, "workspace.pyenv.torch=2.10").workspace.pyenv == {"torch": "2.10"}


def test_source_is_the_option(load: Load, good: str) -> None:
    sources = load(good, "frontend.model_kwargs.tp=4").setting_sources
    assert sources["frontend.model_kwargs.tp"] == "--set frontend.model_kwargs.tp=4"
    assert sources["backend.dtype"].endswith("build.yaml:9:3")
    assert sources["workspace.workers"] == "default"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name", "--set name: not of the form KEY=VALUE\nexpected: --set SECTION.KEY=VALUE"),
        ("=x", "--set =x: not of the form KEY=VALUE\nexpected: --set SECTION.KEY=VALUE"),
        ("a..b=x", "--set a..b=x: not of the form KEY=VALUE\nexpected: --set SECTION.KEY=VALUE"),
        (
            "frontend.model_kwargs.pt=x",
            "--set frontend.model_kwargs.pt=x: unknown key frontend.model_kwargs.pt\n"
            "expected: --set SECTION.KEY=VALUE\nto fix: see docs/configuration.md for the keys",
        ),
        (
            "frontent.checkpoint=x",
            "--set frontent.checkpoint=x: unknown key frontent.checkpoint\n"
            "expected: --set SECTION.KEY=VALUE\nto fix: did you mean frontend.checkpoint?",
        ),
        (
            "tp=2",
            "--set tp=2: unknown key tp\n"
            "expected: --set SECTION.KEY=VALUE\nto fix: did you mean frontend.model_kwargs.tp?",
        ),
        (
            "frontend.model_kwargs.tp=x",
            '--set frontend.model_kwargs.tp=x: frontend.model_kwargs.tp: found "x" (a text)\n'
            "expected: an integer, 1 or more",
        ),
        (
            "frontend.model_kwargs.tp=",
            "--set frontend.model_kwargs.tp=: frontend.model_kwargs.tp: found nothing (null)\n"
            "expected: an integer, 1 or more",
        ),
        (
            "backend.target={kind: llvm, kind: cuda}",
            "--set backend.target={kind: llvm, kind: cuda}: backend.target.kind: duplicate key, "
            "first given at --set backend.target={kind: llvm, kind: cuda}\nto fix: keep one of the two",
        ),
    ],
)
def test_mistakes(error_of: ErrorOf, good: str, override: str, message: str) -> None:
    assert error_of(good, override) == message


def test_value_that_is_no_yaml(error_of: ErrorOf, good: str) -> None:
    assert error_of(good, "name=[").startswith("--set name=[: not YAML: ")


def test_wrong_section_in_the_file_is_what_is_reported(error_of: ErrorOf, good: str) -> None:
    message = error_of(good.replace("  model_kwargs:\n    tp: 2", "  model_kwargs: 3"), "frontend.model_kwargs.tp=2")
    assert message.startswith("build.yaml:6:17: frontend.model_kwargs: found 3 (an integer)")
