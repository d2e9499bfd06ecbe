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


def llama(**config: object) -> dict[str, object]:
    return {"tokenizer_class": "LlamaTokenizer", **config}


def test_special_tokens_of_a_sentencepiece_model(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.write_sentencepiece(tmp_path))
    assert tokenizer.encode("Hello") == tokenizer.encode("Hello", add_special=False)
    assert tokenizer.bos_id == 1 and tokenizer.eos_ids == {2}
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


@pytest.mark.parametrize("name", ["BaichuanTokenizer", "LlamaTokenizer"])
def test_a_sentencepiece_model_gets_what_the_config_asks_for(tmp_path: Path, name: str) -> None:
    config = {"tokenizer_class": name, "add_bos_token": True, "add_eos_token": True}
    tokenizer = load_tokenizer(tiny.write_sentencepiece(tmp_path, tokenizer_config=config))
    ids = tokenizer.encode("Hello")
    assert (ids[0], ids[-1]) == (1, 2)
    assert ids[1:-1] == tokenizer.encode("Hello", add_special=False)


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "BaichuanTokenizer"},
        {"tokenizer_class": "BaiChuanTokenizer"},  # the first Baichuan-7B
        {"tokenizer_class": None, "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaiChuanTokenizer", None]}},
    ],
)
def test_baichuans_class_adds_a_bos_unless_told_not_to(tmp_path: Path, config: dict[str, object]) -> None:
    """So does the code of every published Baichuan; their tokenizer_config.json tells it not to."""
    told = load_tokenizer(tiny.write_sentencepiece(tmp_path, tokenizer_config={**config, "add_bos_token": False}))
    untold = load_tokenizer(tiny.write_sentencepiece(tmp_path, tokenizer_config=config))
    assert untold.encode("Hello") == [1, *told.encode("Hello")]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_tokenizer_json_says_itself_what_goes_around_a_text(tmp_path: Path, wanted: bool) -> None:
    """As in transformers 5."""
    config = {"bos_token": {"content": "<|begin|>"}, "eos_token": "<|end|>", "add_bos_token": wanted}
    tokenizer = load_tokenizer(tiny.write_json(tmp_path, tiny.byte_level_json(), tokenizer_config=config))
    assert tokenizer.encode("Hello") == [0, *tokenizer.encode("Hello", add_special=False)]
    assert tokenizer.bos_id == 0


@pytest.mark.parametrize(
    ("generation", "config", "eos"),
    [(None, [7, 8], {7, 8}), ({"eos_token_id": 9}, 7, {9}), ({}, 7, {1}), (None, None, {1})],
)
def test_ends_are_those_of_the_generation_settings(
    tmp_path: Path, generation: dict[str, int] | None, config: object, eos: set[int]
) -> None:
    files: dict[str, object] = {} if generation is None else {"generation_config": generation}
    files |= {"config": {"eos_token_id": config}, "tokenizer_config": {"eos_token": "<|end|>"}}
    assert load_tokenizer(tiny.write_json(tmp_path, tiny.byte_level_json(), **files)).eos_ids == eos


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


@pytest.mark.parametrize(("legacy", "text"), [(True, "a b c"), (False, "a bc")])
def test_added_tokens_of_a_sentencepiece_tokenizer(tmp_path: Path, legacy: bool, text: str) -> None:
    added = {"400": {"content": "<pad>", "special": True}, "401": {"content": "<tool>"}}
    tiny.write_sentencepiece(tmp_path, tokenizer_config=llama(added_tokens_decoder=added, legacy=legacy))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 402
    ids = tokenizer.encode("a<pad> b<pad>c<tool>", add_special=False)
    assert ids[-1] == 401 and 400 in ids
    # Legacy tokenizers put the dummy space before every piece of text between special tokens.
    assert tokenizer.decode(ids) == f"{text}<tool>"


@pytest.mark.parametrize(("config", "first"), [({}, "▁Hello"), ({"add_prefix_space": False}, "Hello")])
def test_prefix_space(tmp_path: Path, config: dict[str, object], first: str) -> None:
    tokenizer = load_tokenizer(tiny.write_sentencepiece(tmp_path, tokenizer_config=llama(**config)))
    ids = tokenizer.encode("Hello", add_special=False)
    assert "".join(str(tokenizer.token_text(token_id)) for token_id in ids) == first
    assert tokenizer.decode(ids) == "Hello"


@pytest.mark.parametrize("steps", [["Fuse", "Strip"], ["Strip", "Fuse"]])
def test_steps_of_a_decoder_have_an_order(tmp_path: Path, steps: list[str]) -> None:
    content = json.loads(tiny.metaspace_json())
    by_type = {step["type"]: step for step in content["decoder"]["decoders"]}
    content["decoder"]["decoders"] = [by_type[name] for name in ("Replace", "ByteFallback", *steps)]
    folder = tiny.write_json(tmp_path, json.dumps(content))
    if steps[0] == "Fuse":
        assert load_tokenizer(folder).decode([]) == ""
        return
    with pytest.raises(UserError, match="in this order"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["GemmaTokenizer", "Qwen2Tokenizer", "Whatever"])
def test_a_class_that_only_transformers_can_build(tmp_path: Path, name: str) -> None:
    config = {"tokenizer_class": name}
    tiny.write_json(tmp_path / "json", tiny.byte_level_json(), tokenizer_config=config)
    tiny.write_sentencepiece(tmp_path / "model", tokenizer_config=config)
    for folder in ("json", "model"):
        with pytest.raises(UserError, match=f"(?s){name}.*compile the checkpoint"):
            load_tokenizer(tmp_path / folder)


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
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": 1}}', "added_tokens_decoder"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": {"content": "a", "lstrip": 1}}}', "lstrip"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": []}', "added_tokens_decoder"),
        ("tokenizer_config.json", b'{"additional_special_tokens": 5}', "additional_special_tokens"),
        ("tokenizer_config.json", b'{"extra_special_tokens": {"a": 5}}', "extra_special_tokens.a"),
        ("tokenizer_config.json", b'{"pad_token": 7}', "pad_token"),
        ("tokenizer_config.json", b'{"pad_token": "\\ud800"}', "damaged"),
        ("tokenizer_config.json", b'{"tokenizer_class": ["LlamaTokenizer"]}', "tokenizer_class"),
        ("tokenizer_config.json", b"\xff", "UTF-8"),
        ("tokenizer_config.json", b"[" * 100_000, "damaged"),
        ("generation_config.json", b'{"eos_token_id": "two"}', "eos_token_id"),
        ("generation_config.json", b'{"bos_token_id": true}', "bos_token_id"),
        ("generation_config.json", b'{"x": ' + b"9" * 5000 + b"}", "damaged"),
        ("tokenizer_config.json", b'{"image_token": "<nowhere>", "tokenizer_class": "BaichuanTokenizer"}', "<nowhere>"),
        ("tokenizer_config.json", b'{"bos_token": null, "tokenizer_class": "BaichuanTokenizer"}', "bos_token is null"),
        ("tokenizer_config.json", b'{"split_special_tokens": true}', "split_special_tokens"),
        ("qwen.tiktoken", b"", "AutoTokenizer"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    if name.endswith("config.json") or name == "tokenizer.model":
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
