"""Which tokens a verification uses, and the texts that it refuses."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vamc_compiler.verify.tokens import load_tokens
from vamc_runtime.errors import UserError
from vamc_runtime.text.tokenizer import load_tokenizer

CHECKPOINTS = Path(__file__).resolve().parents[4] / "build_in" / "checkpoints"
LLAMA = CHECKPOINTS / "llama-mini"
HELD_OUT = CHECKPOINTS / "held_out.txt"
WriteText = Callable[[str | bytes], Path]


@pytest.fixture
def write_text(tmp_path: Path) -> WriteText:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "text.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def no_tokenizer(tmp_path: Path) -> Path:
    shutil.copy(LLAMA / "config.json", tmp_path)
    return tmp_path


def test_a_text_is_cut_into_sequences() -> None:
    tokens = load_tokens(LLAMA, HELD_OUT, 1100, 1024, 1152)
    expected = load_tokenizer(LLAMA).encode(HELD_OUT.read_text(encoding="utf-8"))[:1100]
    assert [len(sequence) for sequence in tokens.sequences] == [1024, 76]
    assert [token_id for sequence in tokens.sequences for token_id in sequence] == expected
    assert tokens.source.description == str(HELD_OUT)
    assert tokens.source.num_tokens == 1100
    assert tokens.source.digest == hashlib.sha256(np.array(expected, "<i4").tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("num_tokens", "max_context", "lengths"),
    [
        (256, 1024, [256]),
        (5, 1024, [5]),
        (100, 64, [64, 36]),
        (129, 64, [64, 64]),
        (1, 1024, [1]),
        (130, 64, [64, 64, 2]),
    ],
)
def test_sequences_keep_within_the_context_and_the_number_asked_for(
    num_tokens: int, max_context: int, lengths: list[int]
) -> None:
    tokens = load_tokens(LLAMA, HELD_OUT, num_tokens, max_context, 1152)
    assert [len(sequence) for sequence in tokens.sequences] == lengths
    assert tokens.source.num_tokens == sum(lengths)


@pytest.mark.parametrize("model", ["llama-mini", "baichuan2-13b-mini"])
def test_without_a_text_the_built_in_sample_is_used(model: str) -> None:
    tokens = load_tokens(CHECKPOINTS / model, None, 2000, 1024, 1280)
    assert tokens.source.description == "built-in sample"
    assert tokens.source.num_tokens == 2000
    text = load_tokenizer(CHECKPOINTS / model).decode(tokens.sequences[0])
    assert text.startswith("The ferry to the island")


def test_the_sample_is_repeated_when_it_is_too_short() -> None:
    short = load_tokens(LLAMA, None, 512, 512, 1152)
    long = load_tokens(LLAMA, None, 20_000, 512, 1152)
    assert long.source.description == "built-in sample, repeated"
    assert long.source.num_tokens == 20_000
    assert long.sequences[0] == short.sequences[0]


def test_without_a_tokenizer_ids_are_made_up_and_the_same_every_time(no_tokenizer: Path) -> None:
    tokens = load_tokens(no_tokenizer, None, 600, 512, 50)
    assert tokens.source.description == "pseudo-random token ids: the checkpoint has no tokenizer"
    assert [len(sequence) for sequence in tokens.sequences] == [512, 88]
    assert {token_id for sequence in tokens.sequences for token_id in sequence} == set(range(50))
    assert load_tokens(no_tokenizer, None, 600, 512, 50) == tokens


def test_a_text_that_holds_one_sequence_is_used_as_far_as_it_goes(write_text: Callable[[str | bytes], Path]) -> None:
    tokens = load_tokens(LLAMA, write_text("one two three " * 40), 5000, 64, 1152)
    assert all(len(sequence) == 64 for sequence in tokens.sequences[:-1])
    assert 64 <= tokens.source.num_tokens < 5000


def test_a_long_file_gives_the_same_tokens_as_its_beginning(write_text: Callable[[str | bytes], Path]) -> None:
    text = HELD_OUT.read_text(encoding="utf-8")
    whole = load_tokens(LLAMA, HELD_OUT, 700, 512, 1152)
    assert load_tokens(LLAMA, write_text(text * 40), 700, 512, 1152).sequences == whole.sequences


def test_a_long_file_is_not_read_to_its_end(write_text: Callable[[str | bytes], Path]) -> None:
    # What lies far behind the last token that is needed is never decoded.
    load_tokens(LLAMA, write_text("水 and land. ".encode() * 5000 + b"\xff"), 64, 512, 1152)


def test_a_long_run_of_white_space_in_front_is_read_past(write_text: Callable[[str | bytes], Path]) -> None:
    tokens = load_tokens(LLAMA, write_text(" " * 100_000 + "The ferry leaves at seven."), 8, 512, 1152)
    assert tokens.source.num_tokens == 8


def test_a_byte_order_mark_is_no_part_of_the_text(write_text: Callable[[str | bytes], Path]) -> None:
    plain = load_tokens(LLAMA, write_text("The ferry leaves at seven."), 8, 512, 1152)
    assert load_tokens(LLAMA, write_text("\ufeffThe ferry leaves at seven."), 8, 512, 1152).sequences == plain.sequences


def refused(text: Path | None, tokenizer_dir: Path = LLAMA, vocab_size: int = 1152) -> str:
    with pytest.raises(UserError) as caught:
        load_tokens(tokenizer_dir, text, 256, 1024, vocab_size)
    return str(caught.value)


def test_a_missing_text_is_refused(tmp_path: Path) -> None:
    assert re.search(r"nowhere\.txt does not exist", refused(tmp_path / "nowhere.txt"))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: Is a directory" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"), [(b"", "is empty"), (b" \n\t" * 9000, "only white space"), ("　\n", "only white space")]
)
def test_a_text_without_words_is_refused(content: Any, found: str, write_text: Callable[[str | bytes], Path]) -> None:
    assert found in refused(write_text(content))


def test_a_text_in_another_encoding_is_refused_with_the_place(write_text: Callable[[str | bytes], Path]) -> None:
    message = refused(write_text("Größe".encode("latin-1")))
    assert "is not UTF-8: byte 0xf6 at position 2" in message
    assert "iconv" in message


def test_a_character_cut_off_at_the_end_is_refused(write_text: Callable[[str | bytes], Path]) -> None:
    assert "byte 0xe6 at position 6" in refused(write_text("水水水".encode()[:-2]))


def test_a_text_shorter_than_one_sequence_is_refused_with_both_numbers(
    write_text: Callable[[str | bytes], Path],
) -> None:
    path = write_text("The ferry leaves at seven.")
    num_tokens = len(load_tokenizer(LLAMA).encode("The ferry leaves at seven."))
    message = refused(path)
    assert f"has {num_tokens} tokens" in message
    assert "at least 256 tokens" in message


def test_a_text_without_a_tokenizer_is_refused(no_tokenizer: Path) -> None:
    assert "no tokenizer in" in refused(HELD_OUT, no_tokenizer)


def test_a_damaged_tokenizer_is_not_replaced_by_made_up_ids(no_tokenizer: Path) -> None:
    (no_tokenizer / "tokenizer.json").write_text("{", encoding="utf-8")
    assert "tokenizer.json" in refused(None, no_tokenizer)


def test_a_tokenizer_of_a_larger_model_is_refused() -> None:
    assert re.search(r"gives id \d+, the model knows 300 tokens", refused(None, vocab_size=300))
