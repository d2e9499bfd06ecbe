"""The right name for a wrong key."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from vamc_runtime.errors import nearest_name

from .fields import known_keys

MAX_KEY_CHARACTERS = 200  # longer keys are not misspelled ones
ELSEWHERE_CUTOFF = 0.8  # how similar a name of another section must be; siblings need 0.6


def suggest_keys(key: str, *, given: Collection[str] = ()) -> list[str]:
    """The dotted keys a wrong dotted key may have meant, best first, empty when none is close.

    A name that is right but in the wrong section beats one that is merely similar. In the same section, a key
    that is missing beats one that is given.
    """
    if len(key) > MAX_KEY_CHARACTERS:
        return []
    section, _, name = _normal(key).rpartition(".")
    known = list(known_keys())
    same_name = [other for other in known if _name(other) == name and other != key]
    if same_name:
        return sorted(same_name, key=lambda other: (_section(other) != section, known.index(other)))
    siblings = [other for other in known if _section(other) == section]
    for candidates in ([other for other in siblings if other not in given], siblings):
        nearest = nearest_name(name, [_name(other) for other in candidates])
        if nearest:
            return [other for other in candidates if _name(other) == nearest]
    similar = get_close_matches(name, [_name(other) for other in known], n=1, cutoff=ELSEWHERE_CUTOFF)
    return [other for other in known if _name(other) in similar]


def did_you_mean(keys: list[str]) -> str:
    """The question to ask; empty when there is nothing to propose."""
    return f"did you mean {' or '.join(keys)}?" if keys else ""


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def _section(key: str) -> str:
    return key.rpartition(".")[0]


def _normal(key: str) -> str:
    return key.lower().replace("-", "_").replace(" ", "_")
