"""Damaged and odd tokenizer files: refused, or the ids and the text that transformers gives for the same files."""

from __future__ import annotations

import copy
import json
import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.target import Target

sys.path.insert(0, str(Path(__file__).parents[2] / "unit/compiler"))

from tokenizer_kinds import KINDS, write_kind

from vamc_runtime.errors import UserError
from vamc_runtime.text.chat import Message, build_chat
from vamc_runtime.text.tokenizer import StreamDecoder, load_tokenizer

_USED = ("llama", "llama_added", "llama_json", "metaspace_decoder", "byte_level_added", "byte_level_extra")
_TEXTS = ("", "Hello  world, 你好", "<s>a<|im_end|> b word <left> x</s>", "\x00😀e\u0301\n\n\t")
_NUMBERS = (0, -1, 1.5, 1e400, 2**70)
_STRINGS = ("", "x", "▁", "\ud800", "\x1b[2J", "a" * 3000, "<s>")
_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    *_NUMBERS,
    *_STRINGS,
    [],
    [None],
    {},
    {"a": 1},
    [[[[]]]],
    {"content": "<s>"},
)
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}: {{ m['content'] | trim }}\n"
    "{%- if loop.last and add_generation_prompt %}assistant:{{ m | tojson }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Context:
    """What cases share."""

    sources: list[Path]
    folder: Path


def prepare(folder: Path) -> Context:
    """Write the tokenizers."""
    assert set(_USED) <= set(KINDS), "kinds were renamed"
    sources = []
    for kind in _USED:
        path = write_kind(kind, folder / kind)
        config = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
        config["chat_template"] = _TEMPLATE
        (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        (path / "generation_config.json").write_text('{"eos_token_id": [2, 5], "top_p": 0.9}', encoding="utf-8")
        sources.append(path)
    import transformers  # noqa: F401 - not within the time of the first case

    return Context(sources, folder / "case")


def run(context: Context, rng: random.Random) -> None:
    """Damage one file of one tokenizer and load it."""
    shutil.rmtree(context.folder, ignore_errors=True)
    shutil.copytree(rng.choice(context.sources), context.folder)
    files = sorted(path for path in context.folder.iterdir() if path.name != "config.json")
    path = rng.choice(files)
    if path.suffix == ".json" and rng.random() < 0.7:
        content = json.loads(path.read_text(encoding="utf-8"))
        for _ in range(rng.choice((1, 1, 2, 3))):
            _damage_json(content, rng)
        path.write_text(json.dumps(content), encoding="utf-8")
    else:
        path.write_bytes(_damage_bytes(path.read_bytes(), rng))
    _load_and_compare(context.folder)


def _damage_json(content: Any, rng: random.Random) -> None:
    """Change one value somewhere, rarely at the top."""
    while isinstance(content, (dict, list)) and content:
        keys: list[Any] = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = rng.choice(keys)
        if isinstance(content[key], (dict, list)) and content[key] and rng.random() < 0.75:
            content = content[key]
            continue
        choice = rng.randrange(4)
        if choice == 0:
            del content[key]
        elif choice == 1:
            content[key] = copy.deepcopy(content[rng.choice(keys)])
        else:
            content[key] = copy.deepcopy(rng.choice(_ODD))
        return


def _damage_bytes(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return b"x"
    place = rng.randrange(len(data))
    choice = rng.randrange(5)
    if choice == 0:
        return data[:place]
    if choice == 1:
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if choice == 2:
        return data[:place] + rng.randbytes(rng.randint(1, 9)) + data[place:]
    if choice == 3:
        return data[:place] + data[place + rng.randint(1, 40) :]
    end = min(len(data), place + rng.randint(1, 60))
    return data[:place] + data[place:end] * rng.randint(2, 4) + data[end:]


def _load_and_compare(folder: Path) -> None:
    """UserError where the product refuses; else what it gives must be what transformers gives, if that loads at all."""
    tokenizer = load_tokenizer(folder)
    ours = [tokenizer.encode(text) for text in _TEXTS]
    texts = [tokenizer.decode(ids) for ids in ours]
    for ids, text in zip(ours, texts, strict=True):
        decoder = StreamDecoder(tokenizer)
        assert "".join([*map(decoder.push, ids), decoder.finish()]) == text, "streaming gives another text"
    prompt: list[int] | None = None
    try:
        prompt = build_chat(folder, tokenizer).render([Message("user", " Hi <s>")], 10_000)
    except UserError as error:
        assert error.found, "a message without words"
    reference = _reference(folder)
    if reference is None:
        return
    assert ours == [reference.encode(text) for text in _TEXTS], "other ids"
    theirs = [reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in ours]
    assert texts == theirs, f"other text: {texts} instead of {theirs}"
    if prompt is not None:
        messages = [{"role": "user", "content": " Hi <s>"}]
        assert prompt == reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def _reference(folder: Path) -> Any:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException:  # no oracle; a panic of Rust code is no Exception
        return None


TARGET = Target(name="tokenizer_files", num_cases=1000, num_quick=25, prepare=prepare, run=run)
