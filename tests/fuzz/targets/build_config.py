"""Build configs: YAML, `--set` and variables, structure and bytes mutated.

A text that loads is right when PyYAML, reading the same file with spaces for tabs, finds each value that was given.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fuzz.target import Target
from vamc_compiler.config import check_buildable, flat_settings, load_config
from vamc_compiler.config.fields import known_keys
from vamc_runtime.errors import UserError

BASE = """\
# A build.
name: demo
frontend:
  type: huggingface
  checkpoint: /models/demo
  shape: {input_ids: [[256], [1024]]}
  model_kwargs: {tp: 2, b2s: false}
  quantize:
    type: int8_per_channel
    device: cpu
backend:
  dtype: int8
  target:
    kind: llvm
    mcpu: [x86-64-v3, znver4]
dataset: &data {name: c4, path: /data/c4, nsamples: 128}
workspace:
  path: /deploy
  workers: 4
  pyenv: {torch: 2.13, "numpy": '1.26'}
verify: {tokens: 64, budget: {mean_kl: 1e-3}}
"""
VALUES = [
    "null",
    "~",
    "true",
    "no",
    "1",
    "-1",
    "0",
    "16",
    "1.5",
    "1e-5",
    ".nan",
    ".inf",
    "-.inf",
    "1e999",
    "0x10",
    "0o17",
    "0b1",
    "1_000",
    "1:30",
    "59:59:59",
    "2026-11-27",
    "''",
    '""',
    "[]",
    "{}",
    "[[16],[32]]",
    "[1,[2,[3]]]",
    "{a:{b:1}}",
    '!!int""',
    '!!float""',
    '!!bool""',
    '!!binary"aGk="',
    "!!set{a}",
    '!!null""',
    "!tag",
    '"\\ud800"',
    '"\\U00110000"',
    '"\\e[31m"',
    '"\\0"',
    '"\\x85"',
    "${HOME}",
    "${NONE}",
    "${NONE:-x}",
    "${",
    "$${x}",
    "*data",
    "*none",
    "&new",
    "w8a16_gptq",
    "w16kv8",
    "cuda",
    "fp16",
    "bf16",
    "int8",
    "vacc",
    "中文",
    "\u202e",
    "<<:",
    "-",
    "?",
    "|",
    ">",
    "%x",
    "@x",
    "`x",
]
HUGE = ("9" * 5000, "0x" + "f" * 5000, ":".join(["59"] * 3000), "[" * 3000, "x" * 70_000, "- " * 5000)
PIECES = (
    "\t",
    "\t\n",
    " ",
    "\n",
    ":",
    ": ",
    "- ",
    "#",
    "'",
    '"',
    "&a ",
    "*a",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\r",
    "\0",
    "\x85",
)


@dataclass(frozen=True)
class Context:
    """What cases share."""

    folder: Path
    places: list[tuple[int, int]]
    """Where each value of the base stands: first and last character."""


def prepare(folder: Path) -> Context:
    """Find the values in the base."""
    scalars = [event for event in yaml.parse(BASE) if isinstance(event, yaml.ScalarEvent)]
    places = []
    for event in scalars:
        assert event.start_mark is not None and event.end_mark is not None, "parsed from a text"
        places.append((event.start_mark.index, event.end_mark.index))
    return Context(folder, places)


def run(context: Context, rng: random.Random) -> None:
    """Load one mutated config."""
    text = BASE
    places = sorted(rng.sample(context.places, rng.choice((0, 1, 2, 4))), reverse=True)
    for first, last in places:
        text = text[:first] + _replacement(text[first:last], rng) + text[last:]
    data = _damaged(text, rng).encode("utf-8", "surrogatepass")
    for _ in range(rng.choice((0, 0, 0, 0, 0, 0, 0, 1, 3))):
        at = rng.randrange(len(data) + 1)
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + rng.randrange(2) :]
    path = context.folder / "build.yaml"
    path.write_bytes(data)
    overrides = [_override(rng) for _ in range(rng.choice((0, 0, 0, 0, 1, 2)))]
    try:
        config = load_config(path, overrides)
    except UserError as error:
        _assert_safe(str(error))
        raise
    if not overrides:
        _compare(flat_settings(config), yaml.load(data.decode("utf-8-sig").replace("\t", " "), Loader=yaml.BaseLoader))
    check_buildable(config)


def _replacement(text: str, rng: random.Random) -> str:
    """Something else in the place of a key or value: mostly the same in another spelling, or one of its kind."""
    if rng.random() < 0.7:
        spellings = [
            f'"{text}"',
            f"'{text}'",
            f"&new {text}",
            f"!!str {text}",
            f"{text}\t",
            f"{text} ",
            f"${{NONE:-{text}}}",
        ]
        if text.isdecimal():
            spellings += ["1", "3", "16", "32", "64", "0x10", "1_6", "2147483648"]
        return rng.choice(spellings)
    return rng.choice(HUGE) if rng.random() < 0.05 else rng.choice(VALUES)


def _damaged(text: str, rng: random.Random) -> str:
    """Lines moved, doubled and dropped; pieces of syntax put in; tabs for spaces."""
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        kind = rng.choice((0, 1, 2, 3, 3, 3, 4))
        if kind == 0:
            lines.insert(rng.randrange(len(lines)), lines.pop(at))
        elif kind == 1:
            lines.insert(at, lines[at])
        elif kind == 2:
            del lines[at]
        elif kind == 3:
            lines[at] = lines[at].replace(": ", rng.choice((":\t", ": \t", "\t: ", ":")))
        else:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(PIECES) + lines[at][place:]
        text = "\n".join(lines)
    return text


def _override(rng: random.Random) -> str:
    key = rng.choice(known_keys()) if rng.random() < 0.9 else rng.choice(VALUES)
    return f"{key}{rng.choice(('=', '=', '=', '', '=='))}{rng.choice(VALUES)}"


def _assert_safe(message: str) -> None:
    """A message acts on no terminal and fits one."""
    assert not any(ord(character) < 32 and character != "\n" for character in message), repr(message)
    message.encode("utf-8")
    assert len(message) < 100_000, "a message of that size helps nobody"


def _compare(settings: dict[str, Any], written: Any, prefix: str = "") -> None:
    """Whole numbers, booleans and choices are what the file says; texts are compared elsewhere."""
    for name, value in written.items() if isinstance(written, dict) else ():
        key = f"{prefix}{name}"
        found = settings.get(key)
        if isinstance(value, dict):
            _compare(settings, value, f"{key}.")
        elif isinstance(found, bool):
            assert value.lower() in (("true", "yes", "on") if found else ("false", "no", "off")) or "$" in value, key
        elif isinstance(found, int) and value.isdecimal() and not value.startswith("0"):
            assert found == int(value), key


TARGET = Target(name="yaml", num_cases=20_000, num_quick=150, prepare=prepare, run=run)
