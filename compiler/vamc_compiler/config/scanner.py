"""PyYAML's loader with YAML's rules for tabs: they separate like spaces, and only as indentation they are mistakes.

PyYAML refuses every tab between tokens (https://github.com/yaml/pyyaml/issues/594). YAML 1.1 and 1.2 forbid them where
indentation has a meaning, and allow them after `:` and `-`, before comments, within plain texts and on otherwise empty
lines. Columns stay those of the file. To be removed when PyYAML reads them by itself.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_BLANKS = re.compile(r"[ \t]*")
_BREAKS = "\r\n\x85\u2028\u2029"
_ENDS = f"\0{_BREAKS}"


class TabLoader(yaml.SafeLoader):
    """Composes documents as `yaml.SafeLoader` does."""

    # Attributes and methods of yaml.reader.Reader and yaml.scanner.Scanner, which the stubs leave out or untyped.
    buffer: str
    pointer: int
    flow_level: int
    allow_simple_key: bool
    peek: Any
    prefix: Any
    forward: Any
    scan_line_break: Any

    def scan_to_next_token(self) -> None:
        """Skip blanks, comments and line breaks."""
        if self.index == 0 and self.peek() == "\ufeff":
            self.forward()
        while True:
            self._skip_blanks()
            if self.peek() == "#":
                while self.peek() not in _ENDS:
                    self.forward()
            if not self.scan_line_break():
                return
            if not self.flow_level:
                self.allow_simple_key = True

    def _skip_blanks(self) -> None:
        """Skip spaces, and tabs where they are no indentation."""
        blanks = self._blanks()
        if "\t" in blanks and not self.flow_level and self.peek(len(blanks)) not in f"#{_ENDS}":
            if self._is_indentation():
                blanks = blanks[: blanks.index("\t")]
            else:
                self.allow_simple_key = False  # after `-` a tab may stand before a value, not before another block
        self.forward(len(blanks))

    def scan_plain_spaces(self, indent: int, start_mark: object) -> list[str]:
        """The white space within a plain text, with line breaks folded; empty where the document ends.

        Args:
            indent: spaces that a line of the text needs; a tab may follow them.
            start_mark: PyYAML's, not needed.
        """
        blanks = self._blanks()
        self.forward(len(blanks))
        if self.peek() not in _BREAKS:
            return [blanks] if blanks else []
        first = self.scan_line_break()
        self.allow_simple_key = True
        breaks = []
        while not self._at_document_marker():
            blanks = self._blanks()
            if self.peek(len(blanks)) in _BREAKS:
                self.forward(len(blanks))
                breaks.append(self.scan_line_break())
                continue
            num_spaces = len(blanks) - len(blanks.lstrip(" "))
            self.forward(len(blanks) if num_spaces >= indent else num_spaces)  # a tab before that would indent
            return [*([first] if first != "\n" else [] if breaks else [" "]), *breaks]
        return []

    def _at_document_marker(self) -> bool:
        """Whether `---` or `...` stands here, at the beginning of a line."""
        return self.prefix(3) in ("---", "...") and self.peek(3) in f" \t{_ENDS}"

    def _blanks(self) -> str:
        """The spaces and tabs that follow."""
        found = _BLANKS.match(self.buffer, self.pointer)
        assert found is not None, "the pattern matches nothing too"
        return found.group()

    def _is_indentation(self) -> bool:
        """Whether nothing but blanks stands before this place of the line."""
        return not self.buffer[self.pointer - self.column : self.pointer].strip(" \t")
