"""`manifest.json`, mutated: refused, or what it says about weights, step and files is what it said before.

Most cases carry a right digest, so that what lies behind that door is tried.
"""

from __future__ import annotations

import copy
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz import made_up_runstream
from fuzz.target import Target
from vamc_runtime.inspect import describe
from vamc_runtime.printable import printable
from vamc_runtime.runstream import open_runstream

_DECISIVE = ("model", "precision", "tensor_parallel", "limits", "kv_cache", "parameters")
"""What compiled code and the order of weights hang on."""
_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2,
    17,
    2**31,
    10**12,
    10**19,
    0.5,
    "",
    ".",
    "..",
    "/etc/passwd",
    "../numerics.json",
    "rank_0/params.safetensors",
    "lib/model.any.so",
    "a\0b",
    "\x1b[2J\x9b31m\u202e",
    "x\ny",
    "n" * 5000,
    [],
    {},
    [[]],
    {"a": 1},
)
_TEXTS = ("NaN", "Infinity", "-1e999", "9" * 5000, '"\\ud800"', "[" * 3000 + "]" * 3000, "1.0", "1e2", '"\\u0000"')
"""Written in place of a value, as text."""
_PLACEHOLDER = "@@"


@dataclass(frozen=True)
class Context:
    """A runstream, and its manifest as it should be."""

    path: Path
    content: dict[str, Any]


def prepare(folder: Path) -> Context:
    """Make the runstream."""
    made_up_runstream.build(folder / "r")
    content = json.loads((folder / "r" / "manifest.json").read_text(encoding="utf-8"))
    return Context(folder / "r", content)


def run(context: Context, rng: random.Random) -> None:
    """Mutate the manifest and open the runstream as far as its code."""
    (context.path / "manifest.json").write_bytes(_mutated(context.content, rng))
    llm = made_up_runstream.open_without_code(context.path)
    found = json.loads(json.dumps(llm.manifest.to_dict()))
    assert {key: found[key] for key in _DECISIVE} == {key: context.content[key] for key in _DECISIVE}
    assert found["checkpoint"]["digest"] == context.content["checkpoint"]["digest"]
    assert found["files"].items() <= context.content["files"].items()
    assert {lib["file"] for lib in found["libraries"]} <= {lib["file"] for lib in context.content["libraries"]}
    for label, value in describe(open_runstream(context.path)):
        assert "\x1b" not in printable(label + value) and "\x9b" not in printable(label + value)


def _mutated(content: dict[str, Any], rng: random.Random) -> bytes:
    if rng.random() < 0.15:
        return _damaged(json.dumps(content, indent=1).encode(), rng)
    changed = copy.deepcopy(content)
    text = ""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        text = _change(changed, rng) or text
    if rng.random() < 0.85:
        changed = made_up_runstream.with_digest(changed)
    written = json.dumps(changed, indent=rng.choice((None, 1)))
    if rng.random() < 0.05:
        key = rng.choice(sorted(changed)) if changed else "name"
        written = f'{{"{key}": {json.dumps(rng.choice(_VALUES))}, ' + written[1:]
    return written.replace(json.dumps(_PLACEHOLDER), text).encode()


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """Flip a bit, cut, repeat or insert bytes."""
    position = rng.randrange(len(data))
    kind = rng.randrange(4)
    if kind == 0:
        return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]
    if kind == 1:
        return data[:position]
    if kind == 2:
        return data[:position] + data[rng.randrange(len(data)) :]
    return data[:position] + rng.randbytes(rng.choice((1, 2, 1000))) + data[position:]


def _change(content: dict[str, Any], rng: random.Random) -> str:
    """Change one place; the text to write instead of a value, where that is what changes."""
    holder, key = _place(content, rng)
    kind = rng.choice(("value", "value", "near", "near", "delete", "other", "add", "text"))
    if (isinstance(holder, list) and not holder) or (isinstance(holder, dict) and not holder):
        return ""
    value = holder[key]
    if kind == "delete":
        del holder[key]
    elif kind == "other":  # another of the manifest's own values
        other, place = _place(content, rng)
        holder[key] = copy.deepcopy(other[place])
    elif kind == "add":
        _add(holder, key, rng)
    elif kind == "text":
        holder[key] = _PLACEHOLDER
        return rng.choice(_TEXTS)
    elif kind == "near" and type(value) is int:
        holder[key] = rng.choice((value + 1, value - 1, 2 * value, value // 2, -value, float(value), str(value)))
    elif kind == "near" and isinstance(value, str) and value:
        position = rng.randrange(len(value))
        holder[key] = value[:position] + chr(ord(value[position]) ^ 1 << rng.randrange(7)) + value[position + 1 :]
    elif kind == "near" and isinstance(value, list) and value:
        rng.shuffle(value)
    else:
        holder[key] = copy.deepcopy(rng.choice(_VALUES))
    return ""


def _add(holder: Any, key: Any, rng: random.Random) -> None:
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(rng.choice((holder[key], *_VALUES))))
    else:
        name = rng.choice(("extra", "../x", "tokenizer/new.json", "rank_7/params.safetensors", "a\0b", "\x1b[31m"))
        holder[name] = copy.deepcopy(rng.choice((holder[key], *_VALUES)))


def _place(content: dict[str, Any], rng: random.Random) -> tuple[Any, Any]:
    """A container and a key or index in it, at any depth."""
    holder: Any = content
    while True:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if isinstance(holder[key], (dict, list)) and holder[key] and rng.random() < 0.85:
            holder = holder[key]
        else:
            return holder, key


TARGET = Target(name="manifests", num_cases=5000, num_quick=200, prepare=prepare, run=run)
