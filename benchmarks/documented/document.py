"""The tables of docs/kernels.md and docs/runtime.md, and benchmarks/results/kernels.md, written from the record.

What stands between the marks is written here, so that a document cannot say what was not measured. A figure whose run
breaks a rule of benchmarks/README.md carries a dagger, and the line below its table says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from documented import attention, calls, linear, memory, threads
from documented.arithmetics import ROWS
from documented.figures import Group, Unit, write
from documented.record import Record, Run

DOCS = Path(__file__).resolve().parents[2] / "docs"
GROUPS: tuple[Group, ...] = (linear.GROUP, calls.GROUP, attention.GROUP, memory.GROUP, threads.GROUP)
UNITS: Mapping[str, Unit] = {key: unit for group in GROUPS for key, unit in group.units.items()}
DAGGER = "†"

Row = Sequence[str]
"""Cells: text, or `=key` for a figure."""


class Table(NamedTuple):
    """One generated part of a document."""

    document: str
    name: str
    titles: Row
    num_texts: int
    """First columns that are text; the others are figures."""
    rows: Sequence[Row]


TABLES: tuple[Table, ...] = (
    Table(
        "kernels.md",
        "linear",
        (
            "arithmetic",
            "CPU",
            "activations",
            "bound in prefill",
            "512 tokens",
            "of the bound",
            "one token, of a plain read",
        ),
        4,
        [
            (
                f"`{row.title}`",
                row.cpu,
                row.activations,
                row.bound,
                f"=linear.{row.key}.prefill",
                f"=linear.{row.key}.share",
                f"=linear.{row.key}.one" if row.decodes else "",
            )
            for row in ROWS
        ],
    ),
    Table(
        "kernels.md",
        "peaks",
        ("in registers, all cores", "int8", "bf16", "fp32"),
        1,
        [("multiply-adds count twice", "=peak.int8", "=peak.bf16", "=peak.fp32")],
    ),
    Table(
        "kernels.md",
        "calls",
        ("time of a layer with 2048 inputs and 5632 outputs", "ratio"),
        1,
        [
            ("513 tokens over 512, `w8a8_dynamic`", "=calls.w8a8.odd"),
            ("513 tokens over 512, `int8_per_channel`", "=calls.int8.odd"),
            ("17 tokens of `w8a8_dynamic` over the larger of memory and arithmetic", "=calls.few.fetched"),
            ("the same without fetching ahead", "=calls.few.unfetched"),
            ("tiles of 6 x 2 over 3 x 4, `int8_per_channel`, 512 tokens", "=calls.tiles"),
            ("`int8_per_channel` over `w8a8_dynamic`, 512 tokens", "=calls.bits"),
        ],
    ),
    Table(
        "kernels.md",
        "attention",
        ("prefill of 512 tokens", "speed", "of the FMA peak", "exponentials", "appending keys and values"),
        1,
        [(model.title, *(f"=attention.{model.key}.{what}" for what in attention.SHOWN)) for model in attention.MODELS],
    ),
    Table(
        "runtime.md",
        "memory",
        ("1.36 GB of weights", "mapped file", "copy in huge pages"),
        1,
        [
            ("loading, file in the page cache", "=memory.mapped.cache", "=memory.copied.cache"),
            ("loading from the disk", "=memory.mapped.disk", "=memory.copied.disk"),
            ("resident memory that loading takes", "=memory.mapped.resident", "=memory.copied.resident"),
            ("plain read of all weights, from process to process", "=memory.mapped.read", "=memory.copied.read"),
            ("the same beside the mapped file in one process, ratio", "1", "=memory.gain"),
        ],
    ),
    Table(
        "runtime.md",
        "threads",
        ("idle workers", "time"),
        1,
        [("look for work after a call (`TVM_THREAD_POOL_SPIN_COUNT` 1000)", f"={threads.SPIN}")],
    ),
)


def keys_of(table: Table) -> list[str]:
    """The figures that a table shows."""
    return [cell[1:] for row in table.rows for cell in row if cell.startswith("=")]


def marks(name: str) -> tuple[str, str]:
    """What stands before and after a generated part."""
    return f"<!-- {name}: begin, written by make bench -->", f"<!-- {name}: end -->"


def figure(record: Record, key: str) -> str:
    """A figure as a table shows it."""
    value, run = record.values.get(key), record.run_of(key)
    if value is None or run is None:
        return f"not measured {DAGGER}"
    return write(UNITS[key], value.low, value.high) + f" {DAGGER}" * bool(run.broken_rules)


def render(record: Record, table: Table) -> str:
    """A table, and below it where its figures come from."""
    rows = [[figure(record, cell[1:]) if cell.startswith("=") else cell for cell in row] for row in table.rows]
    rule = f"|{'---|' * table.num_texts}{'---:|' * (len(table.titles) - table.num_texts)}"
    head, *lines = (f"| {' | '.join(cells)} |" for cells in (table.titles, *rows))
    return "\n".join([head, rule, *lines, "", *_sources(record, keys_of(table))])


def _sources(record: Record, keys: Sequence[str]) -> list[str]:
    """A sentence for every run behind the figures, and one for figures without a run."""
    runs = sorted({record.values[key].run for key in keys if key in record.values})
    lines = [describe(record.runs[run]) for run in runs]
    if any(key not in record.values for key in keys):
        lines.append(f"{DAGGER} not measured: no run of `make bench` on a machine that can.")
    return lines


def describe(run: Run) -> str:
    """Date, machine, versions and rounds of a run; what is wrong with it comes first."""
    wrong = ", ".join(run.broken_rules)
    broken = f"{DAGGER} outside the rules of benchmarks/README.md ({wrong}): " if wrong else ""
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    parts = [run.date, f"{run.cpu}, {run.cores} cores", versions, f"{run.rounds} rounds" * (run.rounds > 1), run.note]
    return broken + ", ".join(part for part in parts if part) + "."


def update_documents(record: Record, docs: Path = DOCS) -> None:
    """Write every table into its document."""
    for table in TABLES:
        path = docs / table.document
        begin, end = marks(table.name)
        head, found, rest = path.read_text(encoding="utf-8").partition(begin)
        assert found and end in rest, f"{path} has the marks of {table.name}"
        path.write_text(f"{head}{begin}\n{render(record, table)}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def render_all(record: Record) -> str:
    """Every figure with its median and range, as benchmarks/results/kernels.md keeps them."""
    lines = ["# Figures of docs/kernels.md and docs/runtime.md", "", "Made by `make bench`; see ../README.md.", ""]
    for index, run in enumerate(record.runs):
        lines += [describe(run), "", "| figure | median | range |", "|---|---:|---:|"]
        for key, value in record.values.items():
            if value.run == index:
                unit = UNITS[key]
                spread = write(unit, value.low, value.high)
                lines.append(f"| {key} | {write(unit, value.median, value.median)} | {spread} |")
        lines.append("")
    return "\n".join(lines)
