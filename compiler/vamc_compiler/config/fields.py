"""The schema as data: which keys a section has, read from the dataclasses, so that each is written once."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from .constraints import AtLeast, Between, Checked
from .schema import LENGTH_MULTIPLE_TOKENS, BuildConfig, ShapeConfig

# `frontend.shape` is the one section whose keys are not its fields.
SHAPE_KEY = "input_ids"
SHAPE_FORM = f"[[P], [C]], multiples of {LENGTH_MULTIPLE_TOKENS} with {LENGTH_MULTIPLE_TOKENS} <= P <= C"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of a section."""

    name: str
    kind: Any  # the annotation without `| None`
    optional: bool  # null is a value
    default: Any  # dataclasses.MISSING when the key is required; a section's default is its keys' defaults

    @property
    def is_section(self) -> bool:
        return is_dataclass(self.kind) and self.name != SHAPE_KEY


@cache
def settings_of(section: type) -> tuple[Setting, ...]:
    """The keys of a section, in the order of its fields."""
    if section is ShapeConfig:
        return (Setting(name=SHAPE_KEY, kind=ShapeConfig, optional=False, default=MISSING),)
    hints = get_type_hints(section, include_extras=True)
    result = []
    for item in fields(section):
        if not item.metadata.get("setting", True):
            continue
        kind, optional = _without_none(hints[item.name])
        default = item.default if item.default_factory is MISSING else item.default_factory()
        result.append(Setting(name=item.name, kind=kind, optional=optional, default=default))
    return tuple(result)


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    assert len(kinds) == 1, f"a setting has one type or None, not {hint}"
    return kinds[0], True


def split_annotated(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type and the constraints attached to it."""
    if get_origin(kind) is Annotated:
        base, *constraints = get_args(kind)
        return base, tuple(constraints)
    return kind, ()


def walk_settings(section: type = BuildConfig, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Every key of the schema by its dotted path, parents first."""
    for setting in settings_of(section):
        key = prefix + setting.name
        yield key, setting
        if setting.is_section:
            yield from walk_settings(setting.kind, f"{key}.")


@cache
def known_keys() -> tuple[str, ...]:
    """Every dotted key of the schema."""
    return tuple(key for key, _ in walk_settings())


@cache
def free_keys() -> frozenset[str]:
    """The dotted keys below which any name is allowed."""
    return frozenset(key for key, setting in walk_settings() if get_origin(setting.kind) is Mapping)


def describe_kind(kind: Any) -> str:
    """What a setting of this type may be, in words."""
    base, constraints = split_annotated(kind)
    origin = get_origin(base)
    if base is ShapeConfig:
        return SHAPE_FORM
    if isinstance(base, type) and is_dataclass(base):
        return "a section with the keys " + ", ".join(setting.name for setting in settings_of(base))
    if origin is Literal:
        choices = get_args(base)
        return f"one of {', '.join(choices)}" if len(choices) > 1 else str(choices[0])
    if origin is tuple:
        return f"a list, each entry {describe_kind(get_args(base)[0])}"
    if origin is Mapping:
        return "a section of `name: version` lines"
    for constraint in constraints:
        if isinstance(constraint, (Between, Checked)):
            return constraint.description
        if isinstance(constraint, AtLeast):
            return f"an integer, {constraint.minimum} or more"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    return words.get(base, "a path")
