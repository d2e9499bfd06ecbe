"""Whatever a YAML file, `--set` or a variable can hold gets an object or a message; nothing acts on the terminal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fixture_types import ErrorOf, Load

from vamc_compiler.config import load_config
from vamc_compiler.config.load import MAX_FILE_BYTES
from vamc_compiler.show import one_line
from vamc_runtime.errors import UserError

# As they are written in YAML; each is tried for every type of setting, as a key, and through --set.
ODD = {
    "null": "null",
    "boolean": "true",
    "float": "1.5",
    "not a number": ".nan",
    "infinite": "-.inf",
    "huge": "9" * 4000,
    "beyond Python": "9" * 5000,
    "huge hexadecimal": "-0x" + "f" * 5000,
    "sexagesimal": ":".join(["59"] * 3000),
    "one that overflows": "1e999",
    "list": "[1, [2]]",
    "nested": "{a: {b: [1]}}",
    "date": "2026-11-27",
    "empty integer": '!!int ""',
    "empty float": '!!float ""',
    "empty boolean": '!!bool ""',
    "underscore": '!!int "_"',
    "binary": "!!binary aGk=",
    "set": "!!set {a, b}",
    "object": "!!python/object:os.system x",
    "alias": "&a [*a]",
    "unknown alias": "*a",
    "escape beyond Unicode": '"\\U00110000"',
    "largest escape": '"\\UFFFFFFFF"',
    "surrogate": '"\\ud800"',
    "escape sequence": '"\\e[31mred"',
    "NUL": '"\\0"',
    "deep": "[" * 400 + "]" * 400,
    "long": "x" * 100_000,
    "digits that end otherwise": "1" * 50_000 + "x",
    "open variable": "${",
    "merge key": "{<<: {a: 1}}",
}
KEYS = (
    "name",
    "frontend",
    "frontend.checkpoint",
    "frontend.shape.input_ids",
    "frontend.model_kwargs.tp",
    "frontend.model_kwargs.b2s",
    "frontend.model_kwargs.norm_head",
    "frontend.quantize.type",
    "frontend.quantize.device",
    "backend.dtype",
    "backend.target.mcpu",
    "workspace.pyenv",
    "verify.budget.mean_kl",
    "verify.tokens",
)


def assert_shown_safely(message: str) -> None:
    assert not any(ord(character) < 32 and character != "\n" for character in message)
    message.encode("utf-8")
    assert len(message) < 20_000


@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
def test_any_value_anywhere_is_taken_or_refused(value: str, load: Load, good: str) -> None:
    for key in KEYS:
        try:
            load(good, f"{key}={value}")
        except UserError as error:
            assert_shown_safely(str(error))
    for text in (good.replace("tp: 2", f"tp: {value}"), f"{good}{value}: 1\n", f"{good}verify: {value}\n", value):
        try:
            load(text)
        except UserError as error:
            assert_shown_safely(str(error))


@pytest.mark.parametrize(
    "value", ["", "\udcff", "9" * 5000, "\x1b[31m", ".nan", "x\ny", "0x" + "f" * 5000, "a" * 100_000], ids=repr
)
def test_any_variable_is_taken_or_refused(value: str, load: Load, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD", value)
    for key in KEYS:
        try:
            load(good, f'{key}="${{ODD}}"')
        except UserError as error:
            assert_shown_safely(str(error))


def test_texts_that_would_act_on_the_terminal_are_refused(error_of: ErrorOf, good: str) -> None:
    assert error_of(good, 'frontend.quantize={type: int8_per_channel, device: "\\e[2J"}').endswith(
        r"a text with the character \x1b" "\nexpected: printable characters"
    )


def test_a_message_names_the_place_of_a_bad_escape(error_of: ErrorOf, good: str) -> None:
    assert error_of(good.replace("tp: 2", 'tp: "\\U00110000"')).startswith("build.yaml:7:")


def test_many_mistakes_are_cut(error_of: ErrorOf, good: str) -> None:
    message = error_of(good + "".join(f"key{i}: 1\n" for i in range(2_000)))
    assert message.splitlines()[-1] == "  and 1950 more"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\xff\xfen\0a\0", "not UTF-8"),
        (b"n\0a\0m\0e\0", "cannot be printed"),
        (b"", "the file is empty"),
        (b"# nothing\n", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"#" * (MAX_FILE_BYTES + 1), "more than"),
    ],
)
def test_files_that_are_no_config(content: bytes, found: str, tmp_path: Path) -> None:
    path = tmp_path / "build.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=found):
        load_config(path)


def test_places_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("dangling", "loop", "", "none", "x\0y", "a" * 5000):
        with pytest.raises(UserError):
            load_config(tmp_path / name)
    with pytest.raises(UserError, match="a link to nowhere"):
        load_config(tmp_path / "dangling")


def test_a_current_directory_that_is_gone(tmp_path: Path, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "build.yaml").write_text(good)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match="current directory"):
        load_config(tmp_path / "build.yaml")
    os.chdir(tmp_path)


def test_aliases_that_multiply_stay_small(error_of: ErrorOf, good: str) -> None:
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    assert "unknown key" in error_of(f"{good}{laughs}")


def test_shown_texts() -> None:
    assert one_line("a\x1b\u202e\ud800é\n") == r"a\x1b\u202e\ud800é\n"
    assert one_line("x" * 200, 5) == "xxxxx... (200 characters)"
