"""Nothing that a terminal would obey is printed; everything that people read is."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_runtime.errors import UserError
from vamc_runtime.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\x9b31m", r"a\x9b31m"),
        ("over\rwrite\x08", r"over\rwrite\x08"),
        ("\x00\x7f", r"\x00\x7f"),
        ("user\u202etxt.exe", r"user\u202etxt.exe"),
        ("\u2066x\u2069", r"\u2066x\u2069"),
        ("file\udcff", r"file\udcff"),
    ],
)
def test_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["", "plain", "two\nlines\tand a tab", "模型/百川", "שלום", "é", "👩‍💻", "\\x1b"])
def test_left_alone(text: str) -> None:
    assert printable(text) == text


@given(st.text())
def test_any_text(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert printable(shown) == shown


def test_errors_are_shown_so() -> None:
    error = UserError("\x1b]0;title\x07 is bad", expected="no \x1b", fix="remove \x9b")
    assert "\x1b" not in str(error) and "\x9b" not in str(error) and "\x07" not in str(error)
    assert error.found == "\x1b]0;title\x07 is bad", "programs get it as it is"
