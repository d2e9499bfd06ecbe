"""The text of one output as it grows: whole characters only, ending at a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from vamc_runtime.text.tokenizer import StreamDecoder, Tokenizer


class OutputText:
    """Turns tokens into text that may be shown at once.

    Text that could be the beginning of a stop text is held back until it is clear that it is not.

    Args:
        tokenizer: None for a runstream without one; the text then stays empty.
        stop: texts that end the output and are not part of it.
    """

    def __init__(self, tokenizer: Tokenizer | None, stop: Sequence[str]) -> None:
        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer)
        self._stop = tuple(stop)
        self._held = ""

    def push(self, token_id: int) -> tuple[str, bool]:
        """The text to show after one more token, and whether a stop text ended the output."""
        if self._decoder is None:
            return "", False
        self._held += self._decoder.push(token_id)
        found = [position for text in self._stop if (position := self._held.find(text)) >= 0]
        if found:
            shown, self._held = self._held[: min(found)], ""
            return shown, True
        keep = self._possible_stop()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown, False

    def finish(self) -> str:
        """What was held back, when the output ends without a stop text."""
        rest = self._held + ("" if self._decoder is None else self._decoder.finish())
        self._held = ""
        return rest

    def _possible_stop(self) -> int:
        """How many of the last characters begin a stop text."""
        longest = max((len(text) - 1 for text in self._stop), default=0)
        for count in range(min(longest, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-count:]) for text in self._stop):
                return count
        return 0
