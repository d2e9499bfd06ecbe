"""JSON is read as Python reads it, or refused: never guessed at, never with a traceback."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_runtime.strict_json import MAX_DEPTH, parse_json, shown

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def parse(text: str | bytes) -> Any:
    return parse_json(text.encode() if isinstance(text, str) else text, max_bytes=1 << 20)


@given(VALUES.filter(lambda value: "Infinity" not in json.dumps(value)))
def test_good_values(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
        assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1] 2", "Extra data"),
        (b"\xff\xfe", "codec can't decode"),
        ('{"a": 1, "a": 1}', "the key 'a' appears twice"),
        ('[{"b": {"a": 1, "c": 2, "a": 3}}]', "the key 'a' appears twice"),
        ("NaN", "it has NaN"),
        ("[-Infinity]", "it has -Infinity"),
        ("1e999", "which no float holds"),
        ("9" * 5000, "a number of 5000 digits"),
        ("-" + "9" * 30, "a number of 31 digits"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        ("[" * 100_000, f"nested more than {MAX_DEPTH} deep"),
        ('{"a":' * 5000 + "1" + "}" * 5000, f"nested more than {MAX_DEPTH} deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"nested more than {MAX_DEPTH} deep"),
        (" " * (1 << 21), "it has 2097152 bytes, and 1048576 are the most"),
    ],
)
def test_refused(text: str | bytes, found: str) -> None:
    with pytest.raises(ValueError) as caught:  # its text is compared
        parse(text)
    assert found in str(caught.value)


def test_deep_enough_for_real_files() -> None:
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def test_whole_pairs_are_text() -> None:
    assert parse('"\\ud83d\\ude00"') == "😀"


def test_numbers_keep_their_kind() -> None:
    found = parse("[1, 1.0, -0.0]")
    assert [type(value) for value in found] == [int, float, float] and math.copysign(1, found[2]) == -1


def test_long_values_are_cut_in_messages() -> None:
    assert shown("a") == "'a'"
    assert len(shown("a" * 10_000)) == 120 and shown("a" * 10_000).endswith("...")
