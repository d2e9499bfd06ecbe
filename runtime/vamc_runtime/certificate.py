"""`numerics.json`: what a verification found when a runstream was compiled, and tokens to test other CPUs with.

The compiler writes it, the runtime reads it; both through the classes here. The schema version changes as that of
manifest.json does. Figures are finite: a verification that finds anything else does not pass.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vamc_runtime.records import read_record
from vamc_runtime.runstream import Runstream

SCHEMA_VERSION = 2
FILE_NAME = "numerics.json"
GOLDEN_TOP = 8
"""Likeliest tokens that a golden position keeps."""
_DIGITS = 8  # decimals of a golden log-probability: far below any tolerance, and the file stays short

Status = Literal["passed", "off", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure and its bound.

    Raises:
        ValueError: a figure or bound that is not finite.
    """

    pair: str
    """The two stages that were compared."""
    name: str
    """What was measured, for people."""
    value: float
    limit: float
    at_least: bool
    """The limit is a lower one."""

    def __post_init__(self) -> None:
        _require_finite(f"{self.name} of {self.pair}", self.value)
        _require_finite(f"the limit of {self.name} of {self.pair}", self.limit)

    @property
    def used(self) -> float:
        """How much of what the limit allows is used, from 0; 1 at the limit."""
        part, whole = (self.limit, self.value) if self.at_least else (self.value, self.limit)
        if part <= 0:
            return 0.0
        return part / whole if whole > 0 else math.inf

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} (at {'least' if self.at_least else 'most'} {self.limit:.4g})"


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A token sequence, and the likeliest next tokens at every position of it, as verified.

    Raises:
        ValueError: no tokens, rows of different lengths, or a number that is not finite.
    """

    token_ids: tuple[int, ...]
    """The sequence, from position 0."""
    top_ids: tuple[tuple[int, ...], ...]
    """Per position the likeliest next tokens, the likeliest first."""
    log_probabilities: tuple[tuple[float, ...], ...]
    """Theirs, in nats."""
    tolerance: float
    """Largest mean absolute difference of those log-probabilities."""
    source: str
    """Which stage computed them, for people."""

    def __post_init__(self) -> None:
        shape = [len(row) for row in self.top_ids]
        if not self.token_ids or len(shape) != len(self.token_ids) or not all(shape):
            raise ValueError(
                f"golden has likeliest tokens for {len(shape)} positions, and {len(self.token_ids)} tokens"
            )
        if shape != [len(row) for row in self.log_probabilities]:
            raise ValueError("golden does not have one log-probability for each of its likeliest tokens")
        _require_finite("golden.tolerance", self.tolerance)
        for row in self.log_probabilities:
            for value in row:
                _require_finite("a golden log-probability", value)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """All of numerics.json."""

    schema_version: int
    """SCHEMA_VERSION of the compiler that wrote it."""
    status: Status
    reason: str
    """Why it is off or was skipped; empty when passed."""
    reference: str
    """What the original was; empty when there was none."""
    tokens: str
    """Which tokens every stage computed with, for people."""
    num_tokens: int
    """How many."""
    token_digest: str
    """sha256 of the ids as little-endian int32, hex."""
    figures: tuple[Figure, ...]
    """In the order of the stages."""
    excludes: tuple[str, ...]
    """Faults that it excludes, for people."""
    leaves_open: tuple[str, ...]
    """Faults that it could not see and `vamc verify` does, for people."""
    checkpoint_digest: str
    """As in the manifest."""
    toolchain: dict[str, str]
    """Package versions."""
    cpu: str
    """The CPU that it ran on (`machine.cpu_model`)."""
    library: str
    """mcpu of the library that ran; empty when none did."""
    date: str
    """ISO 8601, UTC."""
    golden: Golden | None
    """What a self-test on another CPU compares with."""

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}")


def log_probabilities_at(logits: npt.NDArray[np.float32], ids: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Log-probabilities of some tokens.

    Args:
        logits: float32 [v], of one position.
        ids: k tokens, each below v.

    Returns:
        float64 [k], in nats; NaN where logits are not finite.
    """
    exact = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, which no comparison accepts
        shifted: npt.NDArray[np.float64] = exact - exact.max()
    chosen: npt.NDArray[np.float64] = shifted[list(ids)] - np.log(np.exp(shifted).sum())
    return chosen


def _likeliest(logits: npt.NDArray[np.float32], count: int) -> tuple[int, ...]:
    """Ids of the largest of logits [v], the largest first."""
    chosen = np.argpartition(-logits, min(count, logits.size) - 1)[:count]
    return tuple(chosen[np.argsort(-logits[chosen])].tolist())


def golden_of(
    token_ids: tuple[int, ...], logits: npt.NDArray[np.float32], tolerance: float, source: str, top: int = GOLDEN_TOP
) -> Golden:
    """What a self-test compares with.

    Args:
        token_ids: the sequence, from position 0; t tokens.
        logits: float32 [t, v], those after each token.
        tolerance: largest mean absolute difference of log-probabilities, in nats.
        source: which stage computed the logits, for people.
        top: likeliest tokens to keep at each position; all where the vocabulary has fewer.

    Raises:
        ValueError: no tokens, not as many as rows of logits, or a NaN or infinity among these.
    """
    top_ids = tuple(_likeliest(row, top) for row in logits)
    rows = (log_probabilities_at(row, ids) for row, ids in zip(logits, top_ids, strict=True))
    return Golden(
        token_ids=tuple(map(int, token_ids)),
        top_ids=top_ids,
        log_probabilities=tuple(tuple(row.round(_DIGITS).tolist()) for row in rows),
        tolerance=float(tolerance),
        source=source,
    )


def parse_certificate(content: bytes, path: Path) -> Certificate:
    """A certificate from the content of its file.

    Args:
        content: the file.
        path: its name, for messages.

    Raises:
        UserError: a damaged certificate, or another schema version.
    """
    return read_record(Certificate, content, path, SCHEMA_VERSION)


def read_certificate(runstream: Runstream) -> Certificate | None:
    """The certificate of a runstream; None where it was compiled without one.

    Raises:
        UserError: a damaged certificate, or another schema version.
    """
    if FILE_NAME not in runstream.manifest.files:
        return None
    return parse_certificate(runstream.read(FILE_NAME), runstream.path / FILE_NAME)
