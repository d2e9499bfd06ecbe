"""The text of one output as it grows: whole characters only, ending at a stop text.

As in transformers' `StopStringCriteria`, a stop text may name a special token (<|im_end|>), which the shown text leaves
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

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
        self._tokenizer = tokenizer if stop else None
        self._stop = tuple(stop)
        self._held = ""
        self._is_shown: list[bool] = []
        """For every held character, whether it is text rather than part of a special token."""

    def push(self, token_id: int) -> tuple[str, bool]:
        """The text to show after one more token, and whether a stop text ended the output."""
        if self._decoder is None:
            return "", False
        self._hold(self._decoder.push(token_id), is_shown=True)
        if self._tokenizer is not None:
            self._hold(self._tokenizer.skipped_text(token_id), is_shown=False)
        found = [position for text in self._stop if (position := self._held.find(text)) >= 0]
        if found:
            shown = self._release(min(found))
            self._held, self._is_shown = "", []
            return shown, True
        return self._release(len(self._held) - self._possible_stop()), False

    def finish(self) -> str:
        """What was held back, when the output ends without a stop text."""
        return self._release(len(self._held)) + ("" if self._decoder is None else self._decoder.finish())

    def _hold(self, text: str, *, is_shown: bool) -> None:
        self._held += text
        self._is_shown += [is_shown] * len(text)

    def _release(self, num_characters: int) -> str:
        """The text among the first held characters, which are held no longer."""
        shown = "".join(compress(self._held[:num_characters], self._is_shown))
        self._held, self._is_shown = self._held[num_characters:], self._is_shown[num_characters:]
        return shown

    def _possible_stop(self) -> int:
        """How many of the last characters begin a stop text."""
        longest = max((len(text) - 1 for text in self._stop), default=0)
        for count in range(min(longest, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-count:]) for text in self._stop):
                return count
        return 0
