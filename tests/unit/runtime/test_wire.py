"""Messages to rank 0 arrive whole whatever their size, in order, and the end of the stream is noticed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from vamc_runtime.errors import UserError
from vamc_runtime.ranks.wire import receive, send

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.settimeout(20)  # a fault shall fail, not hang
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("message", [None, (), "text", {"a": [1, 2.5, b"\x00"]}])
def test_round_trip(pair: Pair, message: object) -> None:
    send(pair[0], message)
    assert receive(pair[1]) == message


def test_messages_larger_than_the_socket_buffer(pair: Pair) -> None:
    sent = [np.random.default_rng(i).standard_normal((1 << 18) + i).astype(np.float32) for i in range(6)]

    def send_all() -> None:
        for array in sent:
            send(pair[0], array)

    sender = threading.Thread(target=send_all)
    sender.start()
    received = [receive(pair[1]) for _ in sent]
    sender.join()
    for expected, array in zip(sent, received, strict=True):
        assert isinstance(array, np.ndarray) and array.dtype == np.float32
        np.testing.assert_array_equal(array, expected)


def test_both_ways_in_turns(pair: Pair) -> None:
    def answer() -> None:
        for _ in range(50):
            number = receive(pair[1])
            assert isinstance(number, int)
            send(pair[1], number + 1)

    other = threading.Thread(target=answer)
    other.start()
    number: object = 0
    for _ in range(50):
        send(pair[0], number)
        number = receive(pair[0])
    other.join()
    assert number == 50


def test_a_step_survives(pair: Pair) -> None:
    arguments = tuple(np.arange(size, dtype=np.int32).reshape(1, -1) for size in (3, 1, 0, 7, 1))
    send(pair[0], arguments)
    received = receive(pair[1])
    assert isinstance(received, tuple)
    for expected, array in zip(arguments, received, strict=True):
        assert array.dtype == np.int32 and array.shape == expected.shape
        np.testing.assert_array_equal(array, expected)


def test_an_error_survives_with_all_it_says(pair: Pair) -> None:
    send(pair[0], UserError("found", expected="expected", fix="fix"))
    error = receive(pair[1])
    assert isinstance(error, UserError)
    assert (error.found, error.expected, error.fix) == ("found", "expected", "fix")


@pytest.mark.parametrize("num_bytes", [0, 3, 8, 20])
def test_end_of_stream(pair: Pair, num_bytes: int) -> None:
    """Between two messages, within the length, before the content, within the content."""
    first, second = socket.socketpair()
    with first, second:
        send(first, "x" * 100)
        beginning = second.recv(4096)[:num_bytes]
    pair[0].sendall(beginning)
    pair[0].close()
    with pytest.raises(EOFError):
        receive(pair[1])


def test_messages_before_the_end_are_still_read(pair: Pair) -> None:
    send(pair[0], "last words")
    pair[0].close()
    assert receive(pair[1]) == "last words"
    with pytest.raises(EOFError):
        receive(pair[1])
