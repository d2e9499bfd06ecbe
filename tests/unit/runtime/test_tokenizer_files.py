"""`load_tokenizer`: which files it reads, which special tokens it adds and skips, how it refuses bad ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_tokenizers as tiny

from vamc_runtime.errors import UserError
from vamc_runtime.text.tokenizer import load_tokenizer

SAMPLES = [*tiny.TEXTS[:4], " leading", "  two leading", "trailing ", "", " ", "😀 émoji\n\ttab", "한국어"]


@pytest.mark.parametrize("text", SAMPLES)
@pytest.mark.parametrize("kind", ["sentencepiece", "byte_level", "metaspace"])
def test_text_survives_encoding(tmp_path: Path, kind: str, text: str) -> None:
    if kind == "sentencepiece":
        tiny.write_sentencepiece(tmp_path)
    else:
        tiny.write_json(tmp_path, tiny.byte_level_json() if kind == "byte_level" else tiny.metaspace_json())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in tokenizer.encode(text))


@pytest.mark.parametrize("text", SAMPLES)
def test_ids_and_text_are_those_of_the_sentencepiece_library(tmp_path: Path, text: str) -> None:
    import sentencepiece

    tokenizer = load_tokenizer(tiny.write_sentencepiece(tmp_path))
    reference = sentencepiece.SentencePieceProcessor()
    reference.LoadFromSerializedProto(tiny.sentencepiece_model())
    ids = reference.encode(text)
    assert tokenizer.encode(text, add_special=False) == ids
    assert tokenizer.decode(ids) == reference.decode(ids)


@pytest.mark.parametrize("text", SAMPLES)
@pytest.mark.parametrize("source", [tiny.byte_level_json, tiny.metaspace_json])
def test_ids_and_text_are_those_of_the_tokenizers_library(tmp_path: Path, source: Callable[[], str], text: str) -> None:
    import tokenizers

    tokenizer = load_tokenizer(tiny.write_json(tmp_path, source()))
    reference = tokenizers.Tokenizer.from_str(source())
    ids = reference.encode(text).ids
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_llama_sentencepiece_gets_bos_by_default(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.write_sentencepiece(tmp_path))
    assert tokenizer.encode("Hello")[0] == tokenizer.bos_id == 1
    assert tokenizer.encode("Hello", add_special=False)[0] != 1
    assert tokenizer.eos_ids == {2}
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"add_bos_token": False}},
        {"tokenizer_config": {"tokenizer_class": "BaichuanTokenizer"}},
        {"generation_config": {"user_token_id": 3, "assistant_token_id": 4}},
    ],
)
def test_baichuan_gets_no_bos(tmp_path: Path, files: dict[str, object]) -> None:
    tokenizer = load_tokenizer(tiny.write_sentencepiece(tmp_path, **files))
    assert tokenizer.encode("Hello") == tokenizer.encode("Hello", add_special=False)


def test_config_can_ask_for_eos(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.write_sentencepiece(tmp_path, tokenizer_config={"add_eos_token": True}))
    ids = tokenizer.encode("Hello")
    assert (ids[0], ids[-1]) == (1, 2)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [({}, [0]), ({"add_bos_token": False}, []), ({"add_bos_token": True}, [0])],
)
def test_config_overrules_the_post_processor(tmp_path: Path, config: dict[str, object], wanted: list[int]) -> None:
    config = {"bos_token": {"content": "<|begin|>"}, "eos_token": "<|end|>", **config}
    tokenizer = load_tokenizer(tiny.write_json(tmp_path, tiny.byte_level_json(), tokenizer_config=config))
    assert tokenizer.encode("Hello") == wanted + tokenizer.encode("Hello", add_special=False)
    assert tokenizer.bos_id == 0


def test_several_eos_ids_of_the_generation_config(tmp_path: Path) -> None:
    tiny.write_json(
        tmp_path,
        tiny.byte_level_json(),
        tokenizer_config={"eos_token": "<|end|>"},
        generation_config={"eos_token_id": [1, 2]},
    )
    assert load_tokenizer(tmp_path).eos_ids == {1, 2}


def test_special_tokens_in_a_text_are_recognised_and_not_decoded(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.write_sentencepiece(tmp_path))
    ids = tokenizer.encode("<s>Hello</s>", add_special=False)
    assert (ids[0], ids[-1]) == (1, 2)
    assert tokenizer.decode(ids) == "Hello"
    assert tokenizer.decode([tokenizer.vocab_size + 5, -1]) == ""


@pytest.mark.parametrize(("legacy", "text"), [(True, "a  b"), (False, "a b")])
def test_added_tokens_of_a_sentencepiece_tokenizer(tmp_path: Path, legacy: bool, text: str) -> None:
    config = {"added_tokens_decoder": {"400": {"content": "<pad>", "special": True}}, "legacy": legacy}
    tiny.write_sentencepiece(tmp_path, tokenizer_config=config, added_tokens={"<tool>": 401})
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 402
    ids = tokenizer.encode("a<pad> b<tool>", add_special=False)
    assert ids[-1] == 401 and 400 in ids
    # Legacy tokenizers put the dummy space before every piece of text between special tokens.
    assert tokenizer.decode(ids) == f"{text}<tool>"


def test_added_token_with_characters_outside_the_byte_alphabet(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.write_json(tmp_path, tiny.byte_level_json()))
    assert tokenizer.decode(tokenizer.encode("a<tool call>b")) == "a<tool call>b"


def test_truncation_saved_after_training_is_ignored(tmp_path: Path) -> None:
    content = json.loads(tiny.byte_level_json())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    tokenizer = load_tokenizer(tiny.write_json(tmp_path, json.dumps(content)))
    assert len(tokenizer.encode(tiny.TEXTS[0] * 3)) > 4


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", b'{"model"', "damaged"),
        ("tokenizer.json", b"\xff\xfe", "damaged"),
        ("tokenizer.model", b"junk", "damaged"),
        ("tokenizer.model", b"", "damaged"),
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("tokenizer_config.json", b"{", "damaged"),
        ("tokenizer_config.json", b"[]", "list"),
        ("tokenizer_config.json", b'{"add_bos_token": "yes"}', "add_bos_token"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": 1}}', "added tokens"),
        ("tokenizer_config.json", b'{"additional_special_tokens": 5}', "added tokens"),
        ("generation_config.json", b'{"eos_token_id": "two"}', "eos_token_id"),
        ("tokenizer_config.json", b'{"bos_token": "<nowhere>"}', "<nowhere>"),
        ("qwen.tiktoken", b"", "AutoTokenizer"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    if name.endswith("config.json"):
        tiny.write_sentencepiece(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        load_tokenizer(tmp_path)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json or tokenizer\.model"):
        load_tokenizer(tmp_path / "nowhere")


def test_unknown_decoder(tmp_path: Path) -> None:
    content = json.loads(tiny.byte_level_json())
    content["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    with pytest.raises(UserError, match="WordPiece"):
        load_tokenizer(tiny.write_json(tmp_path, json.dumps(content)))


def test_lone_surrogate(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.write_sentencepiece(tmp_path))
    with pytest.raises(UserError, match="surrogate at character 1"):
        tokenizer.encode("a\ud800")


def test_importing_the_runtime_loads_no_text_library() -> None:
    code = (
        "import sys, vamc_runtime.text.chat, vamc_runtime.scheduler, vamc_runtime.statistics\n"
        "print(sorted({'tokenizers', 'sentencepiece', 'jinja2', 'torch', 'transformers', 'onnx', 'tvm'}"
        " & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
