"""A YAML document as a tree that knows where each key and value was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vamc_compiler.show import one_line

from .problems import Place


@dataclass(frozen=True, kw_only=True)
class ScalarTree:
    """A single value: None, bool, int, float or str, and the text it was written as."""

    place: Place
    value: bool | int | float | str | None
    text: str
    quoted: bool = False  # quotes make every value a text


@dataclass(frozen=True, kw_only=True)
class ListTree:
    """A list."""

    place: Place
    items: tuple[Tree, ...]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A value under a key; `place` is the key's."""

    place: Place
    tree: Tree


@dataclass(frozen=True, kw_only=True)
class SectionTree:
    """Keys and values."""

    place: Place
    entries: Mapping[str, Entry] = field(default_factory=dict)


Tree = ScalarTree | ListTree | SectionTree


def describe(tree: Tree) -> str:
    """What a value is, in words: `"4" (a text)`."""
    if isinstance(tree, ListTree):
        return "a list"
    if isinstance(tree, SectionTree):
        return "a section"
    return describe_value(tree.value, tree.text)


def describe_value(value: bool | int | float | str | None, text: str) -> str:
    """A single value and its type, in words; the text is shown as it was written."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, str):
        return f'"{one_line(value)}" (a text)'
    kind = {bool: "a boolean", int: "an integer", float: "a number with a fraction"}[type(value)]
    return f"{one_line(text)} ({kind})"
