"""docs/kernels.md and docs/runtime.md quote only what `benchmarks/kernels.py` measures, and say when it is doubtful."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
BENCHMARKS, DOCS = REPOSITORY / "benchmarks", REPOSITORY / "docs"

sys.path.insert(0, str(BENCHMARKS))
from documented.document import GROUPS, TABLES, UNITS, Table, figure, keys_of, marks, render, render_all  # noqa: E402
from documented.figures import Unit, write  # noqa: E402
from documented.record import Record, Run, read_record, write_record  # noqa: E402

RECORD = read_record(BENCHMARKS / "results" / "kernels.json")
QUOTED = re.compile(r"\d[\d.,]*\s*(?:GOP/s|GFLOP/s|GB/s|tok/s|µs|ms|s|GB|%|times)(?![\w/])")
SET_NOT_MEASURED = ("at most 2 s", "2 s:")
"""Limits that the code sets."""


def run(*, load: float | None = 0.1, rounds: int = 3, foreign_cores: float | None = 0.0) -> Run:
    return Run(
        date="2026-01-01", cpu="C", cores=2, versions={"v": "1"}, rounds=rounds, load=load, foreign_cores=foreign_cores
    )


def test_every_figure_stands_in_one_table_and_every_table_shows_known_figures() -> None:
    shown = [key for table in TABLES for key in keys_of(table)]
    assert sorted(shown) == sorted(UNITS) == sorted(key for group in GROUPS for key in group.units)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_tables_are_what_make_bench_writes(table: Table) -> None:
    begin, end = marks(table.name)
    _, found, rest = (DOCS / table.document).read_text(encoding="utf-8").partition(begin)
    assert found and rest.partition(end)[0].strip() == render(RECORD, table).strip()


def test_the_text_result_is_what_make_bench_writes() -> None:
    assert (BENCHMARKS / "results" / "kernels.md").read_text(encoding="utf-8") == render_all(RECORD)


@pytest.mark.parametrize("name", sorted({table.document for table in TABLES}))
def test_no_measured_figure_stands_outside_the_tables(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    for table in TABLES:
        if table.document == name:
            begin, end = marks(table.name)
            head, _, rest = text.partition(begin)
            text = head + rest.partition(end)[2]
    for limit in SET_NOT_MEASURED:
        text = text.replace(limit, "")
    assert not QUOTED.findall(text)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (run(load=0.51), "load 0.5"),
        (run(load=None), "load not noted"),
        (run(rounds=2), "2 rounds"),
        (run(foreign_cores=0.2), "others used 0.2 cores"),
    ],
)
def test_figures_measured_against_the_rules_are_marked(broken: Run, reason: str) -> None:
    key = keys_of(TABLES[0])[0]
    good = Record().with_run(run(), {key: [1e9, 2e9, 3e9]})
    assert figure(good, key) == "1.00 to 3.00 GOP/s"
    marked = good.with_run(broken, {key: [2e9]})
    assert marked.runs == (broken,), "a run whose figures were all measured again is forgotten"
    assert figure(marked, key) == "2.00 GOP/s †"
    assert f"† outside the rules of benchmarks/README.md ({reason})" in render(marked, TABLES[0])


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    first, second = list(UNITS)[:2]
    record = Record().with_run(run(load=None), {first: [1.0]}).with_run(run(), {second: [3.0, 1.0, 2.0]})
    write_record(record, tmp_path / "record.json")
    assert read_record(tmp_path / "record.json") == record
    assert record.values[second].median == 2.0 and record.run_of(first) == run(load=None)
    assert figure(Record(), first) == "not measured †"


@pytest.mark.parametrize(
    ("unit", "low", "high", "text"),
    [
        ("share", 0.971, 0.989, "97 to 99 %"),
        ("share", 0.971, 0.974, "97 %"),
        ("op/s", 928.4e9, 928.4e9, "928 GOP/s"),
        ("B/s", 24.51e9, 48e9, "24.5 to 48.0 GB/s"),
        ("s", 0.031, 1.9, "0.031 to 1.9 s"),
        ("ms", 0.5e-3, 0.5e-3, "0.50 ms"),
        ("ratio", 1.334, 1.334, "1.33"),
        ("flop/s", 1234e9, 1234e9, "1234 GFLOP/s"),
    ],
)
def test_figures_have_as_many_digits_as_they_deserve(unit: Unit, low: float, high: float, text: str) -> None:
    assert write(unit, low, high) == text


def test_quick_run_measures_every_figure_that_this_cpu_can(tmp_path: Path) -> None:
    """The kernels without the attention, whose compilation takes longest, and without the processes of `memory`."""
    found = tmp_path / "found.json"
    groups = [part for name in ("linear", "calls", "threads") for part in ("--only", name)]
    command = [sys.executable, str(BENCHMARKS / "kernels.py"), "--quick", "--json", str(found), *groups]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    measured = json.loads(found.read_text(encoding="utf-8"))
    from vamc_runtime.machine import available_cores, cpu_features

    expected = {key for key in UNITS if key.partition(".")[0] in ("linear", "peak", "calls", "threads")}
    if len(available_cores()) < 2:
        expected -= {key for key in expected if key.startswith("threads.")}
    if {"avx512_vnni", "avx512_bf16"} <= cpu_features():
        assert measured["figures"].keys() == expected
    else:
        assert {"peak.fp32", "linear.pairs2.share", "linear.staged2.share"} <= measured["figures"].keys() <= expected
    assert all(value["low"] > 0 for value in measured["figures"].values())
    assert measured["runs"][0]["rounds"] == 1
