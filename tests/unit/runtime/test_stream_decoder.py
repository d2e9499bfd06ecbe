"""`StreamDecoder` gives exactly what decode gives, never half a character, and keeps no history."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
import tiny_tokenizers as tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from vamc_runtime.text.tokenizer import StreamDecoder, Tokenizer, load_tokenizer

BYTE_0 = 5  # id of the byte token <0x00> in the tiny sentencepiece model
KINDS = ["sentencepiece", "byte_level", "metaspace"]


@functools.cache
def tokenizer_of(kind: str) -> Tokenizer:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if kind == "sentencepiece":
            return load_tokenizer(tiny.write_sentencepiece(directory))
        source = tiny.byte_level_json() if kind == "byte_level" else tiny.metaspace_json()
        return load_tokenizer(tiny.write_json(directory, source))


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.push(token_id) for token_id in ids), decoder.finish()]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)  # the machine may be busy
@given(ids=st.lists(st.integers(-1, 420), max_size=40))
def test_random_ids(kind: str, ids: list[int]) -> None:
    tokenizer = tokenizer_of(kind)
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)  # the machine may be busy
@given(text=st.text(max_size=40))
def test_random_text(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode(text)
    pieces = stream(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    # Valid text never shows a replacement character on the way.
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@settings(deadline=None)  # the machine may be busy
@given(ids=st.lists(st.integers(BYTE_0, BYTE_0 + 255), max_size=24))
def test_random_bytes_follow_the_sentencepiece_library(ids: list[int]) -> None:
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor()
    reference.LoadFromSerializedProto(tiny.sentencepiece_model())
    expected = reference.decode([10, *ids]) if ids else ""
    assert "".join(stream(tokenizer_of("sentencepiece"), [10, *ids] if ids else [])) == expected


@settings(deadline=None)  # the machine may be busy
@given(ids=st.lists(st.integers(3, 399), max_size=24))
def test_malformed_bytes_of_byte_level_bpe_are_those_of_the_library(ids: list[int]) -> None:
    import tokenizers

    reference = tokenizers.Tokenizer.from_str(tiny.byte_level_json())
    assert tokenizer_of("byte_level").decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_a_character_waits_for_its_last_byte() -> None:
    tokenizer = tokenizer_of("sentencepiece")
    ids = [byte + BYTE_0 for byte in "😀".encode()]
    assert stream(tokenizer, ids) == ["", "", "", "😀", ""]
    assert stream(tokenizer, ids[:2]) == ["", "", "\ufffd\ufffd"]


def test_only_the_first_space_is_dropped() -> None:
    tokenizer = tokenizer_of("sentencepiece")
    ids = tokenizer.encode("Hello world", add_special=False)
    assert "".join(stream(tokenizer, [1, *ids])) == "Hello world"
    assert "".join(stream(tokenizer, ids + ids)) == "Hello world Hello world"


def test_push_after_finish_is_a_bug() -> None:
    decoder = StreamDecoder(tokenizer_of("sentencepiece"))
    decoder.finish()
    with pytest.raises(AssertionError, match="after finish"):
        decoder.push(5)
