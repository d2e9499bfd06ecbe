"""Output appears as early as it can, ends before the first stop text, and loses nothing on the way."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vamc_runtime.text.output import OutputText
from vamc_runtime.text.tokenizer import Tokenizer


class ByteTokenizer:
    """Tokens with the given bytes, and nothing else of a tokenizer that decoding needs."""

    strips_leading_space = False
    decode_errors = "replace"

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self._tokens = tokens

    def token_bytes(self, token_id: int, *, first: bool = False) -> bytes:
        return b"" if self.skipped_text(token_id) else self._tokens[token_id]

    def skipped_text(self, token_id: int) -> str:
        token = self._tokens[token_id]
        return token.decode() if token.startswith(b"<|") else ""


def push_all(tokens: Sequence[bytes], stop: Sequence[str]) -> tuple[list[str], bool, OutputText]:
    """What is shown after each token, up to a stop text."""
    output = OutputText(cast(Tokenizer, ByteTokenizer(tokens)), stop)
    shown = []
    for token_id in range(len(tokens)):
        text, stopped = output.push(token_id)
        shown.append(text)
        if stopped:
            return shown, True, output
    return shown, False, output


def tokens_of(*texts: str) -> list[bytes]:
    return [text.encode() for text in texts]


@pytest.mark.parametrize(
    ("texts", "stop", "shown"),
    [
        pytest.param(["Hello", " world", "."], [], ["Hello", " world", "."], id="no stop text: all at once"),
        pytest.param(["a", "STOP", "b"], ["STOP"], ["a", ""], id="one token"),
        pytest.param(["a S", "T", "OP b"], ["STOP"], ["a ", "", ""], id="split over three tokens"),
        pytest.param(["abSTOPcd"], ["STOP"], ["ab"], id="within one token"),
        pytest.param(["STOP"], ["STOP"], [""], id="nothing before it"),
        pytest.param(["S", "T", "x"], ["STOP"], ["", "", "STx"], id="a false beginning is shown after all"),
        pytest.param(["aS", "S", "TOP"], ["STOP"], ["a", "S", ""], id="a false beginning before the true one"),
        pytest.param(["ab", "ab", "ac"], ["abac"], ["", "ab", ""], id="overlapping beginnings"),
        pytest.param(["aaa", "ab"], ["aab"], ["a", "a"], id="a repeated letter"),
        pytest.param(["x\n", "\nUser", ":"], ["\n\n", "User:"], ["x", ""], id="the first of several"),
        pytest.param(["x Us", "er:"], ["\n\n", "User:"], ["x ", ""], id="the second of several"),
        pytest.param(["a", "<|end|>", "b"], ["<|end|>"], ["a", ""], id="a special token"),
        pytest.param(["a", "<|end|>", "b"], ["end"], ["a", ""], id="a part of a special token"),
        pytest.param(["a", "<|end|>", "\n", "b"], ["<|end|>\n"], ["a", "", ""], id="a special token and text"),
        pytest.param(["a\n", "<|end|>"], ["\n<|end|>"], ["a", ""], id="text and a special token"),
        pytest.param(["\n", "<|end|>", "b"], ["\n<|end|>\n"], ["", "", "\nb"], id="special tokens are not shown"),
        pytest.param(["\n", "<|end|>", "<|end|>\n"], ["<|end|>\n"], ["\n", "", ""], id="a special token before it"),
        pytest.param(["a##b#", "#"], ["b#", "##"], ["a"], id="the one that comes first in the text"),
        pytest.param(["ab", "cd"], ["abcd", "b"], ["a"], id="a short one within a long one"),
    ],
)
def test_shown_after_each_token(texts: list[str], stop: list[str], shown: list[str]) -> None:
    seen, stopped, output = push_all(tokens_of(*texts), stop)
    ends = any(text in "".join(texts) for text in stop)
    assert (seen, stopped) == (shown, ends)
    assert output.finish() == "", "nothing is held back any more"


def test_held_back_text_is_shown_at_the_end() -> None:
    seen, stopped, output = push_all(tokens_of("say ST", "O"), ["STOP"])
    assert (seen, stopped) == (["say ", ""], False)
    assert output.finish() == "STO"


def test_half_a_character_is_shown_at_the_end_as_such() -> None:
    tokens = [b"ok ST", "好".encode()[:2]]
    seen, stopped, output = push_all(tokens, ["STOP"])
    assert (seen, stopped) == (["ok ", ""], False)
    assert output.finish() == "ST�"


def test_a_stop_text_whose_character_is_split() -> None:
    content = "停".encode()
    seen, stopped, _ = push_all([b"a", content[:1], content[1:2], content[2:], b"b"], ["停"])
    assert (seen, stopped) == (["a", "", "", ""], True)


def test_without_tokenizer() -> None:
    output = OutputText(None, ["STOP"])
    assert output.push(3) == ("", False)
    assert output.finish() == ""


PIECES = st.lists(st.sampled_from([b"a", b"b", b"ab", b"ba", b"aab", b"\xc3", b"\xa9", "é".encode(), b"", b"\xff"]))
STOPS = st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3)


def texts_so_far(tokens: Iterable[bytes]) -> list[str]:
    """Everything that is certain after each token."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts, text = [], ""
    for token in tokens:
        text += decoder.decode(token)
        texts.append(text)
    return texts


@given(tokens=PIECES, stop=STOPS)
@example(tokens=[b"a", b"b", b"a", b"b", b"ab"], stop=["ababab", "bb"])
def test_equals_the_whole_text_cut_at_the_first_stop(tokens: list[bytes], stop: list[str]) -> None:
    shown, stopped, output = push_all(tokens, stop)
    texts = texts_so_far(tokens)
    ends = [i for i, text in enumerate(texts) if any(end in text for end in stop)]
    assert stopped == bool(ends)
    if ends:  # not a token later
        assert len(shown) == ends[0] + 1
        text = texts[ends[0]]
        assert "".join(shown) == text[: min(text.find(end) for end in stop if end in text)]
    else:
        assert "".join(shown) + output.finish() == b"".join(tokens).decode(errors="replace")


def beginnings_at_the_end(text: str, stop: Iterable[str]) -> int:
    """Length of the longest end of a text that could become a stop text."""
    starts = {end[:length] for end in stop for length in range(1, len(end))}
    return max((length for length in range(1, len(text) + 1) if text[-length:] in starts), default=0)


@given(tokens=PIECES, stop=STOPS)
def test_no_more_is_held_back_than_needed(tokens: list[bytes], stop: list[str]) -> None:
    shown, stopped, _ = push_all(tokens, stop)
    texts = texts_so_far(tokens)
    for count in range(1, len(shown) + (not stopped)):
        text = texts[count - 1]
        assert "".join(shown[:count]) == text[: len(text) - beginnings_at_the_end(text, stop)]
