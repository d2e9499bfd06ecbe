"""Tokenizers in a runstream give the ids and the text of transformers, or are refused when compiling."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizer_kinds import KINDS, random_text, write_kind

from vamc_compiler.tokenizer.export import TokenizerFiles, export_tokenizer
from vamc_runtime.errors import UserError
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
