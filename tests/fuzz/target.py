"""What a fuzz target is: how to make what its cases share, and how to run one case."""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fuzz import targets

Outcomes = Literal["both", "accepted", "refused"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of input, mutated.

    A case is right when `run` returns (the product accepted the input, and `run` compared what came out with an
    independent oracle or with the undamaged input) or raises UserError (the product refused it with a message). Every
    other exception, a crash, a hang or growth beyond the limit is a fault.
    """

    name: str
    """As typed after `python -m fuzz`."""
    num_cases: int
    """Cases of the long run."""
    num_quick: int
    """Cases in `make test`, one to three seconds of them."""
    prepare: Callable[[Path], Any]
    """Makes what cases share, once for each worker process, in an empty folder of its own."""
    run: Callable[[Any, random.Random], None]
    """Makes one input from the random generator and gives it to the product: (what `prepare` returned, generator)."""
    outcomes: Outcomes = "both"
    """What the cases of `make test` come to: some accepted and some refused, or all the same."""
    max_seconds: float = 30.0
    """A case that takes longer counts as hanging."""
    max_growth_bytes: int = 1 << 30
    """A worker that grows by more than this over its size after `prepare` is a fault."""


def find_targets() -> dict[str, str]:
    """Where every target is, `module:attribute` by the target's name."""
    found = {}
    for module in pkgutil.iter_modules(targets.__path__, f"{targets.__name__}."):
        place = f"{module.name}:TARGET"
        found[load_target(place).name] = place
    return found


def load_target(place: str) -> Target:
    """Import a target.

    Args:
        place: `module:attribute`; workers get this, because functions do not travel between processes.
    """
    module, attribute = place.split(":")
    target: Target = getattr(importlib.import_module(module), attribute)
    return target


def case_generator(target: Target, seed: int, case: int) -> random.Random:
    """The generator of one case: the same seed and number give the same input."""
    return random.Random(f"{target.name} {seed} {case}")
