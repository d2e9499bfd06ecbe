"""Tokenizers in a runstream give the ids and the text of transformers, or are refused when compiling."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.version import Version
from tokenizer_kinds import KINDS, random_text, sentencepiece_model, token, write_kind

from vamc_compiler.tokenizer.export import TokenizerFiles, export_tokenizer
from vamc_runtime.errors import UserError
from vamc_runtime.text.output import OutputText
from vamc_runtime.text.tokenizer import StreamDecoder, Tokenizer, load_tokenizer

NUM_STRINGS = 60
"""Of every kind; `make fuzz` tries thousands (tests/fuzz/targets/tokenizer_text.py)."""
BAICHUAN = Path(__file__).parents[3] / "build_in/checkpoints/baichuan2-7b-mini"
RAW = {"qwen2", "gpt2_files", "no_class", "unknown_class", "unigram", "gemma"}
"""Kinds that only transformers can build."""


def reference_of(folder: Path, *, trust: bool = False) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust)


def export(checkpoint: Path, **options: Any) -> TokenizerFiles:
    return export_tokenizer(checkpoint, **{"vocab_size": 600, "trust_checkpoint_code": False, **options})


def compare(tokenizer: Tokenizer, reference: Any, seed: str, num_strings: int = NUM_STRINGS) -> None:
    rng = random.Random(seed)
    tokens = sorted({str(token) for token in reference.added_tokens_decoder.values()})
    for _ in range(num_strings):
        text = random_text(rng, tokens)
        for add_special in (True, False):
            ids = reference.encode(text, add_special_tokens=add_special)
            assert tokenizer.encode(text, add_special) == ids, text
        expected = reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids) == expected, text
        decoder = StreamDecoder(tokenizer)
        assert "".join([*map(decoder.push, ids), decoder.finish()]) == expected, text


CHANGED = {"byte_level_as_llama"}
"""Kinds that transformers 5.20, the last for Python 3.10, splits otherwise than 5.24."""


@functools.cache
def kind_folder(kind: str, root: Path) -> Path:
    return write_kind(kind, root / kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_runstreams_tokenizer_is_transformers(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    checkpoint = kind_folder(kind, tmp_path_factory.getbasetemp())
    export(checkpoint).write(tmp_path)
    compare(load_tokenizer(tmp_path), reference_of(checkpoint), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoints_tokenizer_is_transformers_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    if kind in CHANGED and Version(transformers.__version__) < Version("5.24"):
        pytest.skip("the runtime alone reads it as transformers 5.24 does")
    checkpoint = kind_folder(kind, tmp_path_factory.getbasetemp())
    if kind in RAW - {"no_class"}:
        with pytest.raises(UserError, match=r"compile the checkpoint|no tokenizer"):
            load_tokenizer(checkpoint)
    else:
        compare(load_tokenizer(checkpoint), reference_of(checkpoint), kind)


def test_baichuan_is_its_own_code(tmp_path: Path) -> None:
    files = export(BAICHUAN, vocab_size=2000, trust_checkpoint_code=True)
    assert files.compared_with == "tokenizer as BaichuanTokenizer"
    files.write(tmp_path)
    compare(load_tokenizer(tmp_path), reference_of(BAICHUAN, trust=True), "baichuan")
    untrusted = export(BAICHUAN, vocab_size=2000)
    assert "not compared" in untrusted.compared_with and untrusted.files == files.files


@pytest.mark.parametrize("stop", ["<|im_start|>", "art|>", "fox<|im_start|>", "fox", "<|im_start|>\n", "<|im_end|>"])
def test_stop_texts_with_special_tokens_are_transformers(tmp_path: Path, stop: str) -> None:
    import torch
    from transformers import StopStringCriteria

    checkpoint = write_kind("byte_level_extra", tmp_path)
    reference, tokenizer = reference_of(checkpoint), load_tokenizer(checkpoint)
    ids = reference.encode("The quick fox<|im_start|>\nThe lazy dog", add_special_tokens=False)
    criteria, output = StopStringCriteria(reference, [stop]), OutputText(tokenizer, [stop])
    ends = [bool(criteria(torch.tensor([ids[:count]]), None)[0]) for count in range(1, len(ids) + 1)]
    stops = [output.push(token_id)[1] for token_id in ids]
    assert stops.index(True) == ends.index(True) if any(ends) else not any(stops)


@pytest.mark.parametrize("trust", [False, True])
def test_the_class_of_the_first_baichuan(tmp_path: Path, trust: bool) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((BAICHUAN / name).read_bytes())
    for name in ("tokenizer_config.json", "tokenization_baichuan.py"):
        text = (BAICHUAN / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("BaichuanTokenizer", "BaiChuanTokenizer"), encoding="utf-8")
    files = export(tmp_path, vocab_size=4000, trust_checkpoint_code=trust)
    assert files.compared_with == ("tokenizer as BaiChuanTokenizer" if trust else files.compared_with)
    assert load_tokenizer(files.folder).encode("Hello")


OWN_TOKENS: dict[str, Any] = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}


def write_baichuan(folder: Path, config: dict[str, Any], **files: Any) -> Path:
    """A checkpoint with Baichuan's own class: a small vocabulary of 420 with a dummy space, and JSON files by stem."""
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    for name in ("config.json", "generation_config.json", "tokenization_baichuan.py"):
        (folder / name).write_bytes((BAICHUAN / name).read_bytes())
    published = json.loads((BAICHUAN / "tokenizer_config.json").read_text(encoding="utf-8"))
    for stem, content in {"tokenizer_config": {**published, **OWN_TOKENS, **config}, **files}.items():
        (folder / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({}, {}),
        ({"add_bos_token": True, "add_eos_token": True, "bos_token": ""}, {}),
        # Tokens without an id get the next ones, named before unnamed.
        ({"additional_special_tokens": ["<|im_end|>", "the", "<|im_start|>"], "pad_token": "[PAD]"}, {}),
        ({}, {"special_tokens_map": {"additional_special_tokens": ["<|x|>"], "sep_token": "[S]", "pad_token": "[P]"}}),
        ({"pad_token": "[P]"}, {"added_tokens": {"<tool>": 430, "<|x|>": 431}}),
        ({"extra_special_tokens": ["<a>"]}, {"special_tokens_map": {"additional_special_tokens": ["<b>"]}}),
        ({"additional_special_tokens": ["<a>"]}, {"special_tokens_map": {"additional_special_tokens": ["<b>"]}}),
        # Only named and extra special tokens are skipped; the others decode as the library decodes their text.
        ({"added_tokens_decoder": {"420": token("<|im_start|>", special=True), "421": token(" sp ")}}, {}),
        ({"added_tokens_decoder": {"1": token("<s>", special=True)}, "bos_token": "</s>"}, {}),
        ({"added_tokens_decoder": {"420": token("ick", single_word=True), "425": token("▁fox")}}, {}),
        # Flags count for listed tokens only.
        (
            {
                name: {**token(OWN_TOKENS[name], lstrip=True, rstrip=True), "__type": "AddedToken"}
                for name in OWN_TOKENS
            },
            {},
        ),
        ({"eos_token": {**token("</s>", single_word=True), "__type": "AddedToken"}}, {}),
        (
            {
                "added_tokens_decoder": {
                    "1": token("<s>", lstrip=True, rstrip=True),
                    "2": token("</s>", single_word=True),
                }
            },
            {},
        ),
        # No token at all.
        ({"unk_token": None, "pad_token": None}, {}),
        ({"bos_token": None, "eos_token": None}, {}),
        ({}, {"special_tokens_map": {"bos_token": None, "pad_token": None}}),
    ],
)
def test_special_tokens_of_baichuans_class_are_transformers(
    tmp_path: Path, config: dict[str, Any], files: dict[str, Any]
) -> None:
    checkpoint = write_baichuan(tmp_path / "checkpoint", config, **files)
    tokenizer = load_tokenizer(export(checkpoint).folder)
    reference = reference_of(checkpoint, trust=True)
    assert reference.vocab_size == 420
    assert tokenizer.special_tokens == reference.special_tokens_map
    compare(tokenizer, reference, "special")
    rng = random.Random(0)
    few = [*reference.added_tokens_decoder, 0, 1, 2, *range(259, 420, 20)]  # 3 to 258 are bytes
    for _ in range(300):
        ids = rng.choices(few, k=rng.randint(1, 5))
        expected = reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids) == expected, ids


def test_baichuans_new_tokens_beyond_the_model_are_told(tmp_path: Path) -> None:
    checkpoint = write_baichuan(tmp_path / "checkpoint", {"pad_token": "[PAD]"})
    assert not export(checkpoint, vocab_size=421).warnings
    (warning,) = export(checkpoint, vocab_size=420).warnings
    assert "prompts with token 420 ('[PAD]') or above are refused" in warning


@pytest.mark.parametrize(
    ("config", "files", "says"),
    [
        ({"split_special_tokens": True}, {}, "split_special_tokens is True"),
        ({"image_token": "<image>"}, {}, "image_token '<image>' is not in the vocabulary"),
        ({"bos_token": None, "add_bos_token": True}, {}, "bos_token is null"),
        ({"eos_token": None, "add_eos_token": True}, {}, "eos_token is null"),
        # What the id would be depends on the copy of the code.
        ({"added_tokens_decoder": {"300": token("<tool>")}, "pad_token": "[P]"}, {}, r"\[P\].*leave its id open"),
        ({"added_tokens_decoder": {"421": token("<tool>")}, "pad_token": "[P]", "sep_token": "[S]"}, {}, "to fix"),
        ({"added_tokens_decoder": {"420": token("<s>")}}, {}, "has id 1 in the vocabulary and 420 as an added token"),
        ({"added_tokens_decoder": {"420": token("<t>"), "421": token("<t>")}}, {}, "<t>.*several ids"),
        # transformers takes the printed object for the text.
        ({}, {"special_tokens_map": {"additional_special_tokens": [token("<|x|>")]}}, "reads no object here"),
        ({"additional_special_tokens": [token("<|x|>")]}, {}, "reads no object here"),
    ],
)
def test_special_tokens_of_baichuans_class_that_are_refused(
    tmp_path: Path, config: dict[str, Any], files: dict[str, Any], says: str
) -> None:
    checkpoint = write_baichuan(tmp_path / "checkpoint", config, **files)
    for attempt in (export, load_tokenizer):
        with pytest.raises(UserError, match=f"(?s){says}"):
            attempt(checkpoint)


def change(checkpoint: Path, name: str, **values: Any) -> Path:
    path = checkpoint / name
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}), encoding="utf-8")
    return checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_kind("byte_level", tmp_path / "checkpoint")


def settings_of(files: TokenizerFiles) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files.files["generation_config.json"])
    return content


@pytest.mark.parametrize(
    ("model", "eos"),
    [
        ({"model_type": "llama", "eos_token_id": [2, 5]}, [2, 5]),
        ({"model_type": "llama"}, 2),  # the default of LlamaConfig
        ({"model_type": "baichuan", "eos_token_id": 7}, 7),  # which transformers does not know
    ],
)
def test_without_generation_settings_config_json_speaks(checkpoint: Path, model: dict[str, Any], eos: object) -> None:
    (checkpoint / "config.json").write_text(json.dumps(model), encoding="utf-8")
    assert settings_of(export(checkpoint))["eos_token_id"] == eos


def test_generation_settings_go_as_they_are_and_what_is_not_followed_is_listed(checkpoint: Path) -> None:
    change(checkpoint, "generation_config.json", num_beams=4, top_k=7, stop_words_ids=[[1]])
    files = export(checkpoint)
    assert settings_of(files) == {"num_beams": 4, "top_k": 7, "stop_words_ids": [[1]]}
    assert [f"{checkpoint / 'generation_config.json'}: num_beams is 4" in line for line in files.warnings] == [
        True,
        False,
    ]
    assert "stop_words_ids" in files.warnings[1]


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("generation_config.json", {"top_p": 3}, "generation_config.json: top_p is 3"),
        ("generation_config.json", {"bad_words_ids": [[9999]]}, "bad_words_ids names token 9999"),
        ("tokenizer_config.json", {"split_special_tokens": True}, "split_special_tokens"),
        ("tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"}, "runs as Python code"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": 5}}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"bos_token": {"text": "<s>"}}, "bos_token"),
        ("tokenizer.json", {"model": {"type": "BPE"}}, "loads no tokenizer"),
        ("tokenizer.json", {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "WordPiece"),
    ],
)
def test_refused_when_compiling(checkpoint: Path, name: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        export(change(checkpoint, name, **values))


@pytest.mark.parametrize("kind", ["llama", "byte_level", "metaspace_normalizer"])
@pytest.mark.parametrize("name", ["bos_token", "eos_token", "unk_token", "pad_token"])
def test_an_empty_special_token(tmp_path: Path, kind: str, name: str) -> None:
    checkpoint = change(write_kind(kind, tmp_path), "tokenizer_config.json", **{name: ""})
    reference = reference_of(checkpoint)
    for tokenizer in (load_tokenizer(export(checkpoint).folder), load_tokenizer(checkpoint)):
        compare(tokenizer, reference, kind, num_strings=10)
        assert tokenizer.special_tokens[name] == reference.special_tokens_map[name] == ""


@pytest.mark.parametrize("name", ["CodeLlamaTokenizer", "GemmaTokenizer"])
def test_a_class_that_the_vocabulary_does_not_fit(checkpoint: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"(?s)transformers' {name} cannot encode '[a ]'.*correct tokenizer_class"):
        export(change(checkpoint, "tokenizer_config.json", tokenizer_class=name))


def test_code_llama(tmp_path: Path) -> None:
    """Its tokenizer makes another prompt of a text with <FILL_ME>, whose id the published models do not have."""
    checkpoint = change(write_kind("llama", tmp_path), "tokenizer_config.json", tokenizer_class="CodeLlamaTokenizer")
    reference = reference_of(checkpoint)
    fill_id = reference.convert_tokens_to_ids("<FILL_ME>")
    files = export(checkpoint, vocab_size=fill_id)
    assert [f"prompts with token {fill_id} ('<FILL_ME>')" in line for line in files.warnings] == [True]
    tokenizer = load_tokenizer(files.folder)
    for text in ("def f():\n    return ▁<PRE> 1", " <s>a▁<MID>b", "", "  x"):
        assert tokenizer.encode(text) == reference.encode(text)
    with pytest.raises(UserError, match="<FILL_ME>"):
        export(checkpoint, vocab_size=fill_id + 1)


def test_code_that_is_not_trusted(checkpoint: Path) -> None:
    auto_map = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    change(checkpoint, "tokenizer_config.json", auto_map=auto_map, tokenizer_class="OwnTokenizer")
    (checkpoint / "tokenization_own.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"(?s)loads no tokenizer.*--trust-checkpoint-code"):
        export(checkpoint)


def test_a_vocabulary_larger_than_the_models(checkpoint: Path) -> None:
    (warning,) = export(checkpoint, vocab_size=400).warnings
    assert "the model 400: prompts with token 400" in warning


def test_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    files = export(tmp_path)
    assert not files.has_tokenizer and set(files.files) == {"generation_config.json"}
    (tmp_path / "qwen.tiktoken").write_bytes(b"")
    with pytest.raises(UserError, match="tiktoken"):
        export(tmp_path)


def test_a_difference_stops_the_build(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Tokenizer.encode
    monkeypatch.setattr(
        Tokenizer, "encode", lambda self, text, add_special=True: encode(self, text.strip(), add_special)
    )
    with pytest.raises(UserError, match="other ids of ' '"):
        export(checkpoint)
