"""A mistake made on purpose, as data: where it is put, and what verification must say.

A mutation is a small patch of the real code or of the bytes it wrote, never of the checks. Code is edited as text: a
modeling file in a copy of source_code/, or a function whose code is replaced while the patch is in effect. A text that
does not occur exactly once fails the test: the table follows the code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vamc_compiler.verify.faults import Reason

SOURCE_CODE = "source_code/"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and how it is built."""

    model: Literal["alibi", "rotary"]
    precision: Literal["fp16", "fp16 prefill bf16", "bf16", "int8", "w8a8"]
    num_ranks: int

    def __str__(self) -> str:
        return f"{self.model} {self.precision}, {self.num_ranks} rank{'s' * (self.num_ranks > 1)}"


@dataclass(frozen=True)
class Edit:
    """One text of the code, replaced."""

    place: str
    """`source_code/attention.py`, or a function: `vamc_compiler.ops.paged_attention:rotate`."""
    right: str
    wrong: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a pair that fails must name."""

    stage: str
    check: str = "prefill"
    block: str = ""
    op: str = ""
    ranks: tuple[int, ...] = ()
    """Those that are wrong; empty where all are, or the value is the same on all."""
    detail: str = ""
    """Part of it."""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One mistake."""

    name: str
    case: Case
    during: Literal["modeling", "modeling and trace", "graph", "library", "weights", "stale library", "files"]
    """When the edits are in effect.

    - modeling: while the modeling stages run. Where to tap them is read from the clean graph.
    - modeling and trace: before that, also while the graph is traced.
    - graph: while the graph gets its function bodies and is simplified, and no longer.
    - library, weights: while the library is compiled or the weights are written; all else is the clean build's.
    - stale library: while a library is compiled from the edited modeling file; it then replaces the clean one.
    - files: no edits; `damage` changes the files of a finished runstream.
    """
    edits: tuple[Edit, ...] = ()
    damage: Callable[[Path], None] | None = None
    damaged: str = ""
    """What `damage` does, for people."""
    found: tuple[Found, ...]
    """The first failing pairs, in order; more may follow."""
    unseen: Reason | None = None
    """Why the short verification of a build does not see it; None where it does."""


_ALIBI_BUILDS: tuple[tuple[Literal["fp16", "int8", "w8a8"], int], ...] = (("int8", 2), ("fp16", 4), ("w8a8", 2))
ALIBI, ALIBI_4, ALIBI_W8A8 = (
    Case(model="alibi", precision=precision, num_ranks=num_ranks) for precision, num_ranks in _ALIBI_BUILDS
)
ROTARY, ROTARY_4 = (Case(model="rotary", precision="fp16", num_ranks=num_ranks) for num_ranks in (1, 4))
CASES = (ALIBI, ALIBI_4, ALIBI_W8A8, ROTARY, ROTARY_4)
COMPILED = {"alibi": ALIBI, "rotary": ROTARY}
"""The case of each model that is also compiled."""
