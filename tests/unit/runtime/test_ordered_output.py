"""`vamc run` shows a terminal what a model says, and lets it obey nothing; a pipe gets every character."""

from __future__ import annotations

import io

import pytest

from vamc_runtime.run import OrderedOutput

SAID = "Paris\x1b]0;title\x07 \x9b2J\r\nnext\tline\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("pieces", [[SAID], list(SAID)])
def test_on_a_terminal(pieces: list[str]) -> None:
    stream = Terminal()
    output = OrderedOutput(["one", "t\x1bwo"], stream)
    for index in (1, 0):
        for piece in pieces:
            output.push(index, piece, False)
        output.push(index, "", True)
    shown = stream.getvalue()
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(shown)
    assert shown.count(r"Paris\x1b]0;title\x07 \x9b2J") == 2 and r"[2/2] t\x1bwo" in shown
    assert "next\tline\n" in shown


def test_elsewhere() -> None:
    stream = io.StringIO()
    output = OrderedOutput(["one"], stream)
    output.push(0, SAID, True)
    assert stream.getvalue() == SAID + "\n"
