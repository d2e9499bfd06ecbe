"""Every figure of docs/kernels.md and docs/runtime.md, measured: `python benchmarks/kernels.py [--write]`.

Kernels run by themselves, in turns with what the machine can do at best; loading and reading weights runs in processes
of its own. About ten minutes; the machine should do nothing else. `--write` keeps what was found in
benchmarks/results/kernels.json and .md and rewrites the tables of the documents. Figures that this CPU cannot
measure keep what another one found.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from documented.document import GROUPS, TABLES, describe, keys_of, render, render_all, update_documents
from documented.figures import Group, Settings
from documented.machine import num_threads
from documented.memory import in_child
from documented.record import Record, Run, read_record, write_record
from peers.quiet import foreign_cores, read_times, wait_until_quiet

from vamc_runtime.machine import cpu_model

RESULTS = Path(__file__).resolve().parent / "results"
MEASURED = "kernels"
"""Name of the kept files, without their ends."""
QUIET_CORES, PATIENCE_S = 0.1, 20.0
"""Before each group: wait until others use at most so many cores, but no longer than that."""


def _children_seconds() -> float:
    """CPU time of the processes that this one started and that have ended: not foreign either."""
    times = os.times()
    return times.children_user + times.children_system


def measure(groups: Sequence[Group], settings: Settings) -> tuple[Run, dict[str, list[float]]]:
    """Measure groups one after the other, and note under what conditions."""
    load = os.getloadavg()[0]
    samples: dict[str, list[float]] = {}
    foreign = 0.0
    for group in groups:
        if not settings.quick:
            wait_until_quiet(os.getpid(), QUIET_CORES, PATIENCE_S)
        before, begun, children = read_times(os.getpid()), time.perf_counter(), _children_seconds()
        found = group.measure(settings)
        samples |= {key: list(values) for key, values in found.items()}
        seconds = time.perf_counter() - begun
        others = foreign_cores(before, read_times(os.getpid())) - (_children_seconds() - children) / seconds
        foreign = max(foreign, others)
        print(f"{group.name}: {len(found)} figures, {seconds:.0f} s, others {others:.2f} cores", file=sys.stderr)
    run = Run(
        date=datetime.date.today().isoformat(),
        cpu=cpu_model(),
        cores=num_threads(),
        versions={name: importlib.metadata.version(name) for name in ("vamc", "apache-tvm")},
        rounds=settings.rounds,
        load=round(load, 2),
        foreign_cores=round(foreign, 2),
    )
    return run, samples


def keep(record: Record) -> None:
    """Write the record, as JSON and for people, and the tables of the documents."""
    write_record(record, RESULTS / f"{MEASURED}.json")
    (RESULTS / f"{MEASURED}.md").write_text(render_all(record), encoding="utf-8")
    update_documents(record)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [group.name for group in GROUPS]
    parser.add_argument("--only", action="append", choices=names, help="only this group; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over every case of a group (default 3)")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions within a round (default 5)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: shows only that everything runs")
    parser.add_argument("--write", action="store_true", help="keep the figures and rewrite the documents' tables")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of this run alone there")
    parser.add_argument("--load", nargs=3, metavar=("FILE", "PLACE", "REPEATS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--quick measures nothing that is worth keeping: leave out --write")
    return options


def main() -> None:
    """Measure, print, and keep where that was asked for."""
    options = parse_arguments()
    if options.load:
        path, place, repeats = options.load
        print(json.dumps(in_child(Path(path), place, int(repeats))))
        return
    rounds, repeats = (1, 1) if options.quick else (options.rounds, options.repeats)
    groups = [group for group in GROUPS if group.name in (options.only or [group.name])]
    run, samples = measure(groups, Settings(rounds=rounds, repeats=repeats, quick=options.quick))
    new = Record().with_run(run, samples)
    if options.json:
        write_record(new, options.json)
    for table in TABLES:
        if not new.values.keys().isdisjoint(keys_of(table)):
            print(f"\n{table.document}, {table.name}\n\n{render(new, table)}")
    print(f"\n{describe(run)}")
    if options.write:
        keep(read_record(RESULTS / f"{MEASURED}.json").with_run(run, samples))


if __name__ == "__main__":
    main()
