"""The figures as they are kept: benchmarks/results/kernels.json, and what is wrong with how they were measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from peers.quiet import broken_rules


@dataclass(frozen=True, kw_only=True)
class Run:
    """When, where and under what conditions figures were measured."""

    date: str
    cpu: str
    cores: int
    versions: Mapping[str, str]
    rounds: int
    load: float | None
    """Load average of the last minute before the run; None where it was not noted."""
    foreign_cores: float | None
    """CPU that other processes used meanwhile, in cores; the most of any group."""
    note: str = ""

    @property
    def broken_rules(self) -> list[str]:
        """Which rules of benchmarks/README.md the run breaks, in words."""
        return broken_rules(load=self.load, rounds=self.rounds, cores=self.foreign_cores)


@dataclass(frozen=True, kw_only=True)
class Value:
    """A figure's median and range over rounds and cases, in the base unit."""

    median: float
    low: float
    high: float
    run: int
    """Index into the runs of the record."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Every figure that was ever measured, each with the run that made it."""

    runs: tuple[Run, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)

    def run_of(self, key: str) -> Run | None:
        """The run that a figure comes from; None where it was never measured."""
        value = self.values.get(key)
        return None if value is None else self.runs[value.run]

    def with_run(self, run: Run, samples: Mapping[str, Sequence[float]]) -> Record:
        """The record after a run: its figures replace older ones, and runs without figures are forgotten."""
        values = dict(self.values)
        for key, found in samples.items():
            values[key] = Value(median=statistics.median(found), low=min(found), high=max(found), run=len(self.runs))
        runs = (*self.runs, run)
        used = sorted({value.run for value in values.values()})
        place = {old: new for new, old in enumerate(used)}
        kept = {key: replace(value, run=place[value.run]) for key, value in sorted(values.items())}
        return Record(runs=tuple(runs[index] for index in used), values=kept)


def read_record(path: Path) -> Record:
    """The record in a file; an empty one where there is no file."""
    if not path.exists():
        return Record()
    content = json.loads(path.read_text(encoding="utf-8"))
    values = {key: Value(**value) for key, value in content["figures"].items()}
    return Record(runs=tuple(Run(**run) for run in content["runs"]), values=values)


def write_record(record: Record, path: Path) -> None:
    """Write a record as JSON, one figure per line."""
    figures = ",\n".join(f"  {json.dumps(key)}: {json.dumps(asdict(value))}" for key, value in record.values.items())
    runs = ",\n".join(f"  {json.dumps(asdict(run))}" for run in record.runs)
    path.write_text(f'{{\n "runs": [\n{runs}\n ],\n "figures": {{\n{figures}\n }}\n}}\n', encoding="utf-8")
