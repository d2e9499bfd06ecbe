"""Messages between a program and rank 0, which it started itself: a length, then a pickle, over a socket pair."""

from __future__ import annotations

import pickle
import socket
from dataclasses import dataclass

_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Loading:
    """Rank 0, while it starts: how much of its weights is in memory."""

    done_bytes: int
    total_bytes: int


def send(stream: socket.socket, message: object) -> None:
    """Send one message."""
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.sendall(len(content).to_bytes(_LENGTH_BYTES, "little") + content)


def _read(stream: socket.socket, num_bytes: int) -> bytearray:
    content = bytearray(num_bytes)
    view = memoryview(content)
    while view:
        count = stream.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return content


def receive(stream: socket.socket) -> object:
    """Wait for one message.

    Raises:
        EOFError: the other end is closed.
    """
    length = int.from_bytes(_read(stream, _LENGTH_BYTES), "little")
    return pickle.loads(_read(stream, length))
