"""How the grammars draw: skewed (Zipf-like) choices whose order may depend on the context, and small helpers."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
Message = dict[str, str]  # {"role": "user" | "assistant", "content": text}

VILLAGE_EXPONENT = 2.0  # the first choice is four times as likely as the second
GAZETTE_EXPONENT = 0.8  # the first choice is 1.7 times as likely as the second, 6 times as likely as the tenth
LEADER_WEIGHT = 2.5  # of the first subject, against 1 for every other


def pick(rng: random.Random, choices: Sequence[T], rotate_by: int = 0) -> T:
    """Draw one of ``choices``, the k-th with weight ``k ** -VILLAGE_EXPONENT``.

    ``rotate_by`` says which choice comes first, so that the favourite depends on the context.
    """
    weights = [(rank + 1) ** -VILLAGE_EXPONENT for rank in range(len(choices))]
    rank = rng.choices(range(len(choices)), weights=weights)[0]
    return choices[(rank + rotate_by) % len(choices)]


def pick_even(rng: random.Random, choices: Sequence[T]) -> T:
    """Draw a subject: evenly, so that every fact is seen often, but for the first, which leads by far."""
    weights = [LEADER_WEIGHT, *[1.0] * (len(choices) - 1)]
    return rng.choices(choices, weights=weights)[0]


def mostly(rng: random.Random, probability: float = 0.8) -> bool:
    """Whether an optional sentence is written."""
    return rng.random() < probability


def title(text: str) -> str:
    """``text`` with its first letter in upper case."""
    return text[0].upper() + text[1:]


@functools.cache
def _cumulative_weights(num_choices: int) -> list[float]:
    return list(itertools.accumulate((rank + 1) ** -GAZETTE_EXPONENT for rank in range(num_choices)))


def draw(rng: random.Random, choices: Sequence[T], rotate_by: int = 0) -> T:
    """Draw one of ``choices``, the k-th with weight ``k ** -GAZETTE_EXPONENT``; ``rotate_by`` as for `pick`."""
    rank = rng.choices(range(len(choices)), cum_weights=_cumulative_weights(len(choices)))[0]
    return choices[(rank + rotate_by) % len(choices)]


def exchange(user: str, assistant: str) -> list[Message]:
    """One question and its answer."""
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
