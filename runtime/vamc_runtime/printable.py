"""Text from files and users, made safe to print."""

from __future__ import annotations

import re

# Control characters but tab and line feed, those that turn the direction of text round, and lone surrogates. A terminal
# takes the first as commands (ESC and the C1 set begin them), shows the second in another order than they stand in the
# file, and cannot encode the third.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with what a terminal would obey rather than show written out, ESC as `\x1b`; lines and tabs stay.

    Every text that comes from a manifest, a config, a checkpoint or a model goes through here on its way to a terminal.
    """
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
