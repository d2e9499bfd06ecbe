"""The two families of errors that reach a user.

`UserError`: something the user can put right; shown as one message without a traceback, exit status 2.
Every other exception is our bug: traceback, a request to report it, exit status 70.
"""

from __future__ import annotations

import functools

from vamc_runtime.printable import printable

EXIT_USER_ERROR = 2
EXIT_INTERNAL_ERROR = 70
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A mistake the user can put right: what was found, what was expected, what to do.

    Args:
        found: what is wrong, naming the file, key or value.
        expected: what would have been right; empty when `found` says it.
        fix: what to do next, ideally a command or an edit.

    The parts may quote files and users as they are; `str` of the error is safe to print.
    """

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        super().__init__(found, expected, fix)
        self.found = found
        self.expected = expected
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        # An error raised in a worker process must arrive whole: by default only `args` would travel.
        return functools.partial(type(self), expected=self.expected, fix=self.fix), (self.found,)

    def __str__(self) -> str:
        lines = [self.found]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        if self.fix:
            lines.append(f"to fix: {self.fix}")
        return printable("\n".join(lines))


def nearest_name(name: str, known: list[str]) -> str | None:
    """The known name closest to a misspelled one, or None when none is close."""
    import difflib

    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return matches[0] if matches else None
