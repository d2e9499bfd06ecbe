"""`512,513` on the command line; apart from the rest, because the parser loads it for every command."""

from __future__ import annotations

import argparse


def parse_numbers(text: str) -> tuple[int, ...]:
    """`512,513` as an argparse type; an empty text is no numbers."""
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = (0,)
    if any(number < 1 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers of at least 1, separated by commas")
    return numbers
