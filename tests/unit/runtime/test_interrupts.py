"""Signals end a command with their own status, also where compiled code turns the exception into another."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator

import pytest

from vamc_runtime import cli


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers of a program in a terminal, and afterwards those of the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_arrives_as_another_error(
    number: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def within_a_callback(options: argparse.Namespace) -> int:
        try:
            signal.raise_signal(number)
        except BaseException:
            raise RuntimeError from None
        return 0

    monkeypatch.setattr(cli, "_inspect", within_a_callback)
    assert cli.main(["inspect", "somewhere"]) == status
    assert capsys.readouterr().err == "vamc: interrupted\n"


def test_an_error_without_a_signal_is_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: argparse.Namespace) -> int:
        raise RuntimeError("broken")

    monkeypatch.setattr(cli, "_inspect", fail)
    assert cli.main(["inspect", "somewhere"]) == 70
    assert "this is a bug in vamc" in capsys.readouterr().err
