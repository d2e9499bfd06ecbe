"""Make the text that the demo checkpoints are trained on and measured with, from seeded grammars in ``corpus/``.

* ``village``: few subjects and skewed choices. The most likely next token leads clearly almost everywhere.
* ``gazette``: thousands of words, names, numbers and dates. Much of it cannot be foreseen.

Text is a pure function of its kind and seed: document ``i`` of a seed is the same whatever the number of documents.

``python build_in/checkpoints/make_text.py --held-out --output held_out.txt`` made ``held_out.txt``; with
``--kind gazette``, ``held_out_gazette.txt``.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from corpus import gazette, gazette_chats, village, village_chats
from corpus.choices import Message

HELD_OUT_SEED = 7_000_001  # training refuses this seed
DOCUMENT_SEPARATOR = "\n\n"  # between documents in a text file; never inside a document

Kind = Literal["village", "gazette"]


class Grammar(NamedTuple):
    """What makes one kind of text."""

    make_document: Callable[[random.Random], str]
    make_chat: Callable[[random.Random], list[Message]]
    num_held_out: int  # documents of the held-out text


GRAMMARS: dict[Kind, Grammar] = {
    "village": Grammar(village.make_document, village_chats.make_chat, 115),
    "gazette": Grammar(gazette.make_document, gazette_chats.make_chat, 150),
}


def generate_text(kind: Kind, seed: int, num_documents: int) -> list[str]:
    """``num_documents`` documents; equal arguments give equal text on every machine."""
    make = GRAMMARS[kind].make_document
    return [make(random.Random(f"text:{seed}:{index}")) for index in range(num_documents)]


def generate_chats(kind: Kind, seed: int, num_chats: int) -> list[list[Message]]:
    """``num_chats`` chats, each a list of ``{"role", "content"}`` that alternates user and assistant."""
    make = GRAMMARS[kind].make_chat
    return [make(random.Random(f"chat:{seed}:{index}")) for index in range(num_chats)]


def held_out_text(kind: Kind) -> list[str]:
    """Documents of a seed that training never uses; short fact paragraphs may still equal trained ones."""
    return generate_text(kind, HELD_OUT_SEED, GRAMMARS[kind].num_held_out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write documents, separated by blank lines, to a file or to standard output."""
    parser = argparse.ArgumentParser(description="Write the seeded demo text.")
    parser.add_argument("--kind", choices=sorted(GRAMMARS), default="village", help="which text (default village)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the documents (default 0)")
    parser.add_argument("--num-documents", type=int, default=115, help="how many documents (default 115)")
    parser.add_argument("--held-out", action="store_true", help="write the held-out text, with its own seed and length")
    parser.add_argument("--output", type=Path, help="write here instead of standard output")
    options = parser.parse_args(arguments)
    kind: Kind = options.kind
    documents = held_out_text(kind) if options.held_out else generate_text(kind, options.seed, options.num_documents)
    text = DOCUMENT_SEPARATOR.join(documents) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
