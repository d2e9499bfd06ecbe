"""`--set a.b.c=value`: one setting replaced from the command line, its section made when it is missing."""

from __future__ import annotations

from collections.abc import Sequence

from vamc_compiler.show import one_line

from .document import parse_yaml
from .fields import free_keys, known_keys
from .problems import Place, Problem, RefusalError
from .suggest import did_you_mean, suggest_keys
from .tree import Entry, ScalarTree, SectionTree, Tree

_FORM = "--set SECTION.KEY=VALUE"


def apply_overrides(root: SectionTree, overrides: Sequence[str]) -> tuple[SectionTree, list[Problem]]:
    """The tree with each override in place, in order, and the overrides that could not be read."""
    problems: list[Problem] = []
    for override in overrides:
        place = Place(f"--set {override}")
        try:
            keys, tree, duplicates = _parse(override, place)
        except RefusalError as refusal:
            problems.append(refusal.as_problem(""))
            continue
        problems += duplicates
        root = _replaced(root, keys, Entry(place=place, tree=tree))
    return root, problems


def _parse(override: str, place: Place) -> tuple[list[str], Tree, list[Problem]]:
    key, equals, value = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise RefusalError(place, "not of the form KEY=VALUE", expected=_FORM)
    if key not in known_keys() and key.rpartition(".")[0] not in free_keys():
        fix = did_you_mean(suggest_keys(key)) or "see docs/configuration.md for the keys"
        raise RefusalError(place, f"unknown key {one_line(key)}", expected=_FORM, fix=fix)
    tree, duplicates = parse_yaml(value, lambda line, column: place, key)
    return key.split("."), tree or ScalarTree(place=place, value=None, text=""), duplicates


def _replaced(section: SectionTree, keys: Sequence[str], entry: Entry) -> SectionTree:
    """The section with the entry at the path below it.

    Where the file has something else than a section on the way, it stays: the reader reports it.
    """
    name, *rest = keys
    if rest:
        old = section.entries.get(name)
        if old is None or (isinstance(old.tree, ScalarTree) and old.tree.value is None):
            old = Entry(place=entry.place, tree=SectionTree(place=entry.place))
        if not isinstance(old.tree, SectionTree):
            return section
        entry = Entry(place=old.place, tree=_replaced(old.tree, rest, entry))
    return SectionTree(place=section.place, entries={**section.entries, name: entry})
