"""Rotary settings of config.json, in each place where transformers 5 reads them.

Three spellings are in use: `rope_parameters` (transformers 5, the base inside), `rope_scaling` beside `rope_theta`
(transformers 4), and `type` or `rope_type` for the kind in either. Where two spellings say different things,
transformers takes one of them silently; here that is refused, because the other may be what the weights were trained
with. Defaults are those of transformers 5 (modeling_rope_utils.py, `standardize_rope_params`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vamc_compiler.model.fields import Fields
from vamc_compiler.show import describe_json, one_line
from vamc_runtime.errors import UserError

DEFAULT_THETA = 10000.0
SUPPORTED_ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
"""Those that source_code/rotary.py computes."""

# Of every kind that transformers knows; a kind leaves alone the numbers of the others.
_KNOWN_KEYS = frozenset(
    {
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "factor",
        "finetuned",
        "high_freq_factor",
        "long_factor",
        "low_freq_factor",
        "mscale",
        "mscale_all_dim",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "rope_theta",
        "rope_type",
        "short_factor",
        "truncate",
        "type",
    }
)


@dataclass(frozen=True)
class Rope:
    """How positions turn queries and keys."""

    theta: float
    """Base of the frequencies."""
    scaling: Mapping[str, Any] | None
    """Numbers of the scaling with its kind under `rope_type`, defaults filled in; None when unscaled."""
    rotary_share: float
    """Share of a head's width that turns."""


def read_rope(config: Fields, max_position_embeddings: int) -> Rope:
    """The rotary settings of a config.json.

    Raises:
        UserError: a value is of another type or out of range, a number is missing, or two spellings contradict.
    """
    section = _section(config)
    theta = _one_of(config, section, "rope_theta", lambda fields: fields.number("rope_theta", above=0.0))
    share = _one_of(
        config,
        section,
        "partial_rotary_factor",
        lambda fields: fields.optional_number("partial_rotary_factor", above=0.0),
    )
    original = _one_of(
        config,
        section,
        "original_max_position_embeddings",
        lambda fields: fields.optional_integer("original_max_position_embeddings"),
    )
    base = DEFAULT_THETA if theta is None else theta
    kind = "default" if section is None else _kind(section)
    scaling = None
    if section is not None and kind != "default":
        scaling = _scaling(section, kind, original or max_position_embeddings, base)
    return Rope(base, scaling, 1.0 if share is None else share)


def _section(config: Fields) -> Fields | None:
    """The object that holds the settings, under either of its names; None where neither is there."""
    new, old = config.section("rope_parameters"), config.section("rope_scaling")
    given = [section for section in (new, old) if section is not None and section.raw]
    for section in given:
        for key, value in section.raw.items():
            if key not in _KNOWN_KEYS:
                raise UserError(
                    f"{section.path} has {describe_json(value)} for {one_line(section.name(key))!r}",
                    expected=f"keys that are known: {', '.join(sorted(_KNOWN_KEYS))}",
                    fix="this version does not compute what it stands for",
                )
    if len(given) == 2 and _plain(given[0]) != _plain(given[1]):
        raise UserError(
            f"{config.path} has both 'rope_parameters' and 'rope_scaling', and they differ",
            expected="one of them, or the same in both",
            fix="keep the one that the weights were trained with",
        )
    return given[0] if given else None


def _plain(section: Fields) -> dict[str, Any]:
    """What an object says, whichever way it is spelled; the base may stand elsewhere."""
    content = {key: value for key, value in section.raw.items() if key not in ("type", "rope_type", "rope_theta")}
    return content | {"kind": _kind(section)}


def _kind(section: Fields) -> str:
    """The kind of scaling; `type` is its old name."""
    new, old = section.text("rope_type"), section.text("type")
    if new is not None and old is not None and new != old:
        raise UserError(
            f"{section.path} has {describe_json(new)} for {section.name('rope_type')!r} "
            f"and {describe_json(old)} for {section.name('type')!r}",
            expected="the same kind of rotary scaling under both names",
            fix="keep the one that the weights were trained with",
        )
    return new if new is not None else old if old is not None else "default"


def _one_of(config: Fields, section: Fields | None, key: str, read: Callable[[Fields], Any]) -> Any:
    """A number that may stand in the file itself, in the object, or in both; None where it is in neither."""
    places = [place for place in (section, config) if place is not None and place.has(key)]
    values = [read(place) for place in places]
    if len(values) == 2 and None not in values and values[0] != values[1]:
        raise UserError(
            f"{config.path} has {values[1]} for {key!r} and {values[0]} for {places[0].name(key)!r}",
            expected="one of them, or the same in both",
            fix="keep the one that the weights were trained with",
        )
    return next((value for value in values if value is not None), None)


def _scaling(section: Fields, kind: str, original: int, theta: float) -> dict[str, Any]:
    """The numbers of a scaling; a kind that is not computed here keeps what the file says."""
    if kind in ("linear", "dynamic"):
        return {"rope_type": kind, "factor": section.number("factor", above=0.0)}
    if kind == "llama3":
        numbers = {key: section.number(key, above=0.0) for key in ("factor", "low_freq_factor", "high_freq_factor")}
        if numbers["high_freq_factor"] <= numbers["low_freq_factor"]:
            raise section.wrong("high_freq_factor", f"more than low_freq_factor, which is {numbers['low_freq_factor']}")
        return {"rope_type": kind, **numbers, "original_max_position_embeddings": original}
    if kind == "yarn":
        return {"rope_type": kind, **_yarn(section, theta), "original_max_position_embeddings": original}
    return {**section.raw, "rope_type": kind}


def _yarn(section: Fields, theta: float) -> dict[str, Any]:
    if theta <= 1.0:
        raise UserError(f"{section.path} has {theta} for 'rope_theta' with the rope_type yarn", expected="above 1")
    numbers: dict[str, Any] = {
        "factor": section.number("factor", above=0.0),
        "beta_fast": section.optional_number("beta_fast", minimum=0.0) or 32.0,
        "beta_slow": section.optional_number("beta_slow", minimum=0.0) or 1.0,
        "truncate": section.flag("truncate", default=True),
    }
    if numbers["beta_fast"] < numbers["beta_slow"]:
        raise UserError(
            f"{section.path} has the beta_fast {numbers['beta_fast']} and the beta_slow {numbers['beta_slow']}",
            expected="a beta_fast of at least beta_slow",
        )
    for key in ("attention_factor", "mscale", "mscale_all_dim"):
        if (value := section.optional_number(key, minimum=0.0)) is not None:
            numbers[key] = value
    return numbers
