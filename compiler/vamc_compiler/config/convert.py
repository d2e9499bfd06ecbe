"""One value of the tree to the type its setting has. Nothing is guessed: "4" is no integer, 1 no boolean."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from vamc_compiler.show import one_line, show_integer
from vamc_runtime.errors import nearest_name

from .constraints import AtLeast, Between, Checked, PathRole
from .fields import describe_kind, split_annotated
from .problems import Place, RefusalError
from .tree import ListTree, ScalarTree, SectionTree, Tree, describe, describe_value
from .variables import Expanded, expand

_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What values depend on besides the file."""

    config_dir: Path
    current_dir: Path
    environment: Mapping[str, str]


def convert(kind: Any, tree: Tree, around: Surroundings) -> Any:
    """The value of a setting that is not a section.

    Raises:
        RefusalError: the value does not fit.
    """
    base, constraints = split_annotated(kind)
    if get_origin(base) is tuple:
        return _list_of(get_args(base)[0], tree, around)
    if get_origin(base) is Mapping:
        return _texts_by_name(tree, around)
    if not isinstance(tree, ScalarTree):
        raise RefusalError(tree.place, f"found {describe(tree)}", expected=describe_kind(kind))
    given = expand(tree, around.environment)
    if get_origin(base) is Literal:
        return _choice(get_args(base), given, tree.place)
    value = _typed(base, kind, given, tree.place)
    for constraint in constraints:
        _check(constraint, value, kind, tree.place)
    if base is Path:
        from_shell = given.from_environment or tree.place.line is None
        return resolve_path(value, constraints, around, tree.place, from_shell=from_shell)
    return value


def resolve_path(
    text: str, constraints: tuple[Any, ...], around: Surroundings, place: Place, *, from_shell: bool
) -> Path:
    """An absolute path. What comes from the shell is relative to where the shell is."""
    from_config = PathRole.INPUT in constraints and not from_shell
    start = around.config_dir if from_config else around.current_dir
    try:
        return (start / Path(text).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise RefusalError(place, f"found the path {one_line(text)!r}, which cannot be used: {error}") from error


def _typed(base: Any, kind: Any, given: Expanded, place: Place) -> Any:
    """The value as bool, int, float or str (also for paths)."""
    if base is float:
        return _number(kind, given, place)
    if base in (str, Path):
        fits: Any = str
        if given.retyped and given.text:  # the user could not quote a variable's value
            return given.text
    else:
        fits = base
    if type(given.value) is fits and not (base is Path and not given.text):
        return given.value
    raise RefusalError(
        place,
        f"found {describe_value(given.value, given.text)}",
        expected=describe_kind(kind),
        fix=_quotes_fix(fits, given),
    )


def _number(kind: Any, given: Expanded, place: Place) -> float:
    """A finite number with or without a fraction."""
    number: Any = given.value
    # YAML 1.1 reads a number as a text when it has an exponent and no point (1e-5) or no sign after the e (1.0e5).
    if isinstance(number, str) and not given.quoted and _NUMBER.fullmatch(given.text):
        number = given.text
    elif isinstance(number, bool) or not isinstance(number, (int, float)):
        found = f"found {describe_value(given.value, given.text)}"
        raise RefusalError(place, found, expected=describe_kind(kind), fix=_quotes_fix(float, given))
    try:
        value = float(number)
    except OverflowError:  # an integer beyond the floats
        value = math.inf
    if not math.isfinite(value):
        raise RefusalError(place, f"found {one_line(given.text)}, which is not finite", expected=describe_kind(kind))
    return value


def _quotes_fix(fits: Any, given: Expanded) -> str:
    if fits is str and given.value is not None and given.text:
        return f'put it in quotes: "{one_line(given.text)}"'
    if fits is int and isinstance(given.value, str) and given.text.strip().isdecimal():
        return f"remove the quotes: {given.text.strip()}"
    if fits is float and isinstance(given.value, str) and _NUMBER.fullmatch(given.text.strip()):
        return f"remove the quotes: {given.text.strip()}"
    if fits is bool and isinstance(given.value, str) and given.text.strip().lower() in ("true", "false"):
        return f"remove the quotes: {given.text.strip().lower()}"
    return ""


def _check(constraint: Any, value: Any, kind: Any, place: Place) -> None:
    if isinstance(constraint, AtLeast) and value < constraint.minimum:
        raise RefusalError(place, f"found {show_integer(value)}", expected=describe_kind(kind))
    if isinstance(constraint, AtLeast) and value > constraint.maximum:
        raise RefusalError(place, f"found {show_integer(value)}", expected=f"at most {constraint.maximum}")
    if isinstance(constraint, Between) and not constraint.holds(value):
        raise RefusalError(place, f"found {value}", expected=constraint.description)
    if isinstance(constraint, Checked):
        complaint = constraint.complaint(value)
        if complaint:
            raise RefusalError(place, f"found {one_line(value)!r}: {complaint}", expected=constraint.description)


def _choice(choices: tuple[str, ...], given: Expanded, place: Place) -> str:
    # YAML 1.1 reads an unquoted `on` or `off` as a boolean; as a choice, the text counts.
    if given.text in choices and (given.retyped or isinstance(given.value, (str, bool))):
        return given.text
    meant = given.text.lower()
    if isinstance(given.value, bool):
        word = "on" if given.value else "off"
        meant = word if word in choices else meant
    nearest = nearest_name(meant, list(choices))
    raise RefusalError(
        place,
        f"found {describe_value(given.value, given.text)}",
        expected=describe_kind(Literal[choices]),
        fix=f"did you mean {nearest}?" if nearest else "",
    )


def _list_of(kind: Any, tree: Tree, around: Surroundings) -> tuple[Any, ...]:
    if not isinstance(tree, ListTree):
        one = isinstance(tree, ScalarTree) and isinstance(tree.value, str)
        raise RefusalError(
            tree.place,
            f"found {describe(tree)}",
            expected=describe_kind(tuple[kind, ...]),
            fix=f"write it as a list: [{one_line(tree.text)}]" if one and isinstance(tree, ScalarTree) else "",
        )
    values: dict[Any, None] = {}
    for item in tree.items:
        value = convert(kind, item, around)
        if value in values:
            raise RefusalError(item.place, f"found {one_line(str(value))!r} twice", fix="keep one of the two")
        values[value] = None
    return tuple(values)


def _texts_by_name(tree: Tree, around: Surroundings) -> dict[str, str]:
    """Name -> text as written, so that the version 4.50 does not become 4.5."""
    if isinstance(tree, ScalarTree) and tree.value is None:
        return {}
    if not isinstance(tree, SectionTree):
        raise RefusalError(tree.place, f"found {describe(tree)}", expected=describe_kind(Mapping[str, str]))
    texts = {}
    for name, entry in tree.entries.items():
        if not isinstance(entry.tree, ScalarTree) or entry.tree.value is None:
            raise RefusalError(
                entry.tree.place, f"found {one_line(name)}: {describe(entry.tree)}", expected="a version"
            )
        texts[name] = expand(entry.tree, around.environment).text
    return texts
