"""Standard input, output and error as a command finds them: full, closed, not UTF-8, or with nobody reading.

One place for every command. Standard output carries results: what cannot be written there is never lost without a
word (exit status 2, or that of SIGPIPE where the reader went away). Standard error carries progress and messages for
people: where it cannot be written, the command goes on without. Streams that are not the process's own (tests,
notebooks, an embedding program) are left as they are.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import os
import select
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TextIO, cast

from vamc_runtime.errors import EXIT_USER_ERROR, UserError

EXIT_READER_GONE = 141
"""128 + SIGPIPE: what a shell shows for `cat` and every other program whose reader went away."""
_ESCAPES = "vamc.escapes"
# C1 control characters: JSON leaves them as they are, and terminals obey them.
_CONTROLS = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


class OutputLostError(UserError):
    """Standard output cannot be written: whatever produces it can stop."""


class _Descriptor(io.RawIOBase):
    """One of the process's own streams; remembers the error that ended it, and takes everything after that."""

    def __init__(self, descriptor: int, *, failure: OSError | None, raises: bool) -> None:
        self._descriptor = descriptor
        self._raises = raises
        self.failure = failure
        """Why nothing can be written any more; None while it can."""
        self.lost = False
        """Whether something that was written got nowhere."""

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return self.failure is None and os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """All of it, or an error: never a part."""
        view = memoryview(data).cast("B")
        try:
            if self.failure is None:
                self._write(view)
        except OSError as error:
            self.failure = error
        if self.failure is not None:
            first, self.lost = not self.lost, True
            if first and self._raises:
                raise OutputLostError(f"standard output cannot be written: {self.failure.strerror}")
        return len(view)

    def _write(self, view: memoryview) -> None:
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # whoever shares the terminal or pipe made it non-blocking
                select.select([], [self._descriptor], [])


def _backslashes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Python's `\\u4f60`; a question mark for each character where the encoding has no backslash either."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text, end = cast("tuple[str, int]", codecs.backslashreplace_errors(error))
    try:
        text.encode(error.encoding)
    except UnicodeEncodeError:
        text = "?" * (error.end - error.start)
    return text, end


class StandardStreams:
    """The process's own streams, while a command runs. A context manager; `end` gives the exit status."""

    def __init__(self) -> None:
        self._before = sys.stdout, sys.stderr
        self._output: _Descriptor | None = None
        self._escaped = False

    def __enter__(self) -> StandardStreams:
        _occupy_closed()
        self._before = sys.stdout, sys.stderr
        codecs.register_error(_ESCAPES, self._escape)
        if sys.stdout is sys.__stdout__:
            self._output = _descriptor(sys.__stdout__, 1, raises=True)
            sys.stdout = _text(self._output, sys.__stdout__, _ESCAPES)
        if sys.stderr is sys.__stderr__:
            sys.stderr = _text(_descriptor(sys.__stderr__, 2, raises=False), sys.__stderr__, "backslashreplace")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # With the streams that Python made, which hold nothing, the interpreter ends without a complaint.
        sys.stdout, sys.stderr = self._before

    def _escape(self, error: UnicodeError) -> tuple[str | bytes, int]:
        if isinstance(error, UnicodeEncodeError):
            characters = error.object[error.start : error.end]
            self._escaped |= any(not 0xD800 <= ord(character) < 0xE000 for character in characters)
        return _backslashes(error)

    def check(self) -> None:
        """Refuse to work for an output that nobody could get.

        Raises:
            OutputLostError: standard output was closed when the program began.
        """
        if self._output is not None and self._output.failure is not None:
            self._output.lost = True
            raise OutputLostError("standard output is closed")

    def end(self, status: int) -> int:
        """Write what is still held; the exit status, from that of the command.

        Says on standard error what was lost or written in another way.
        """
        with contextlib.suppress(OutputLostError):
            sys.stdout.flush()
        if self._output is None:
            return status
        failure = self._output.failure
        if self._output.lost and failure is not None:
            if failure.errno == errno.EPIPE:
                return status or EXIT_READER_GONE
            say(f"vamc: error: {_lost(failure)}")
            return EXIT_USER_ERROR
        if self._escaped:
            say(
                f"vamc: note: standard output is {sys.stdout.encoding}: characters that it lacks are written as "
                "\\uXXXX; PYTHONIOENCODING=utf-8 writes them as they are"
            )
        return status


def _lost(failure: OSError) -> UserError:
    if failure.errno == errno.EBADF:
        return UserError(
            "standard output is closed",
            expected="somewhere to write the result",
            fix="redirect it to a file, or to /dev/null where it is not wanted",
        )
    return UserError(
        f"standard output cannot be written: {failure.strerror}",
        expected="room for the whole result; some of it is lost",
        fix="write it to another file or disk",
    )


def _occupy_closed() -> None:
    """Open /dev/null in place of closed standard streams.

    Else the next file or socket would get their number, and everybody who writes messages would write into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)


def _descriptor(stream: TextIO | None, descriptor: int, *, raises: bool) -> _Descriptor:
    """The descriptor behind a stream that Python made; None stands for one that was closed."""
    closed = None if stream is not None else OSError(errno.EBADF, os.strerror(errno.EBADF))
    return _Descriptor(descriptor, failure=closed, raises=raises)


def _text(raw: _Descriptor, made: TextIO | None, errors: str) -> TextIO:
    """A text stream like the one Python made, over `raw`."""
    like = made if isinstance(made, io.TextIOWrapper) else None
    unbuffered = like is not None and like.write_through  # python -u
    return io.TextIOWrapper(
        cast("BinaryIO", raw if unbuffered else io.BufferedWriter(raw)),
        encoding=like.encoding if like is not None else "utf-8",
        errors=errors,
        line_buffering=like.line_buffering if like is not None else raw.fileno() == 2,
        write_through=unbuffered,
    )


def say(message: str) -> None:
    """A message for people, on standard error."""
    print(message, file=sys.stderr)


def print_json(document: object) -> None:
    """One JSON document on standard output, whole in every encoding: what it lacks becomes JSON's own escapes.

    Lone surrogates, which no encoding has, and control characters are escaped too.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False).translate(_CONTROLS)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(document, indent=1)
    print(text)


def print_path(path: Path) -> None:
    """A path on a line of its own, byte for byte as the system knows it: a script can open what it reads."""
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        print(path)
        return
    sys.stdout.flush()
    buffer.write(os.fsencode(path) + b"\n")
