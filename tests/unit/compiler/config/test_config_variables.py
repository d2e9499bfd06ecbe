"""`${VAR}`, `${VAR:-default}` and `$$`."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import ErrorOf, Load


@pytest.mark.parametrize(
    ("text", "environment", "name"),
    [
        ("${NAME}", {"NAME": "x"}, "x"),
        ("${NAME:-y}", {"NAME": "x"}, "x"),
        ("${NAME:-y}", {}, "y"),
        ("${NAME:-y}", {"NAME": ""}, "y"),
        ("a-${NAME}-b", {"NAME": "x"}, "a-x-b"),
        ("${NAME}${OTHER:-z}", {"NAME": "x"}, "xz"),
        ("'${NAME}'", {"NAME": "123"}, "123"),
        ("${NAME}", {"NAME": "123"}, "123"),
        ("${NAME}", {"NAME": "true"}, "true"),
        ("${NAME}", {"NAME": "${OTHER}"}, "${OTHER}"),  # values are not expanded again
        ("a$$b", {}, "a$b"),
        ("$${NAME}", {}, "${NAME}"),
        ("cost$", {}, "cost$"),
        ("$HOME", {}, "$HOME"),
        ("${NAME:-a$$b}", {}, "a$b"),
        ("${NAME:-a:-b}", {}, "a:-b"),
    ],
)
def test_text(
    load: Load, good: str, monkeypatch: pytest.MonkeyPatch, text: str, environment: dict[str, str], name: str
) -> None:
    for variable in ("NAME", "OTHER"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert load(good.replace("demo", text)).name == name


def test_whole_variable_takes_the_type_of_its_value(load: Load, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = good.replace("tp: 2", "tp: ${TP:-2}\n    align_qkv: ${ALIGN}")
    monkeypatch.setenv("ALIGN", "true")
    kwargs = load(text).frontend.model_kwargs
    assert (kwargs.tp, kwargs.align_qkv) == (2, True)
    monkeypatch.setenv("TP", "4")
    assert load(text).frontend.model_kwargs.tp == 4


def test_variables_in_a_flow_list_are_quoted_and_still_integers(
    load: Load, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P", "512")
    text = good.replace("[[256], [1024]]", '[["${P}"], ["${C:-2048}"]]')
    assert load(text).frontend.shape.input_ids == [[512], [2048]]


def test_choice_and_optional_choice(load: Load, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTYPE", "fp16")
    monkeypatch.setenv("ARCH", "")
    text = good.replace("dtype: fp16", "dtype: ${DTYPE}").replace("tp: 2", "model_arch: ${ARCH:-}")
    config = load(text)
    assert (config.backend.dtype, config.frontend.model_kwargs.model_arch) == ("fp16", None)


def test_variable_with_the_wrong_type(error_of: ErrorOf, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TP", "four")
    assert error_of(good.replace("tp: 2", "tp: ${TP}")) == (
        'build.yaml:7:9: frontend.model_kwargs.tp: found "four" (a text)\nexpected: an integer, 1 or more'
    )


def test_part_of_a_text_is_not_retyped(error_of: ErrorOf, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TP", "2")
    assert 'found "12" (a text)' in error_of(good.replace("tp: 2", "tp: 1${TP}"))


def test_unset_variable(error_of: ErrorOf, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL", raising=False)
    assert error_of(good.replace("checkpoint: model", "checkpoint: a/${MODEL}")) == (
        "build.yaml:3:15: frontend.checkpoint: the variable MODEL, which is not set\n"
        "to fix: set MODEL, or give a default: ${MODEL:-default}"
    )


@pytest.mark.parametrize("text", ["${}", "${1A}", "${A-b}", "${A:?b}", "${A B}", "a${B"])
def test_malformed(error_of: ErrorOf, good: str, text: str) -> None:
    message = error_of(good.replace("demo", f"'{text}'"))
    assert message.startswith("build.yaml:1:7: name: the malformed variable ${")
    assert message.endswith("expected: ${NAME} or ${NAME:-default}\nto fix: write $$ for a dollar sign")


def test_nested_default_is_refused(error_of: ErrorOf, good: str) -> None:
    assert "the malformed variable ${" in error_of(good.replace("demo", "'${A:-${B}}'"))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("${MODEL}", "out/m"),  # given in the shell: relative to the shell
        ("${MODEL}/sub", "out/m/sub"),
        ("zoo/${MODEL}", "in/zoo/m"),  # written in the file: relative to the file
        ("${NOTHING:-m}", "in/m"),
    ],
)
def test_relative_path_starts_where_its_text_comes_from(
    load: Load, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, where: str
) -> None:
    monkeypatch.setenv("MODEL", "m")
    monkeypatch.delenv("NOTHING", raising=False)
    config = load(good.replace("checkpoint: model", f"checkpoint: {text}"))
    assert config.frontend.checkpoint == tmp_path / where
