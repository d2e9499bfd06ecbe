"""The code blocks of the documents."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for pattern in (
        "*.md",
        "docs/*.md",
        "tests/*.md",
        "tests/fuzz/*.md",
        "benchmarks/*.md",
        "build_in/checkpoints/*.md",
    )
    for path in REPOSITORY.glob(pattern)
)
_COMMAND = re.compile(r"(?:^|(?<=[\s/]))vamc (?=[a-z]|--)")


def read_document(name: str) -> str:
    """A document's text."""
    return (REPOSITORY / name).read_text(encoding="utf-8")


def code_blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order; "" for those that name none."""
    blocks, open_language, lines = [], None, list[str]()
    for line in text.splitlines(keepends=True):
        if not line.startswith("```"):
            lines.append(line)
        elif open_language is None:
            open_language, lines = line[3:].strip(), []
        else:
            if open_language == language:
                blocks.append("".join(lines))
            open_language = None
    return blocks


def shell_commands(text: str) -> list[str]:
    """The commands in the `sh` blocks of a document, one string each, without comments and empty lines."""
    lines = [line for block in code_blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    commands = (shlex.join(shlex.split(line, comments=True)) if "|" not in line else line for line in lines)
    return [command for command in commands if command.strip()]


def vamc_arguments(command: str) -> list[str] | None:
    """What follows `vamc` in a command, up to a pipe; None for another command."""
    found = _COMMAND.search(command)
    if found is None:
        return None
    return shlex.split(command[found.end() :].partition(" | ")[0], comments=True)
