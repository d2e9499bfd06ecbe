"""Measure vamc and its peers interleaved on one checkpoint; write a table, a plot and every sample.

    .venv/bin/python benchmarks/peers/install.py
    .venv/bin/python benchmarks/peers/run.py --work /tmp/peers/models --output /tmp/peers/result

README.md says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from entries import ENTRIES
from measurement import Plan, Runner
from preparation import prepare_all
from report import Report, as_json, as_markdown
from shapes import SHAPES
from workers import HERE, REPOSITORY


def conditions() -> dict[str, Any]:
    """Machine, date and state of the repository."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    commit = ("git", "-C", str(REPOSITORY), "describe", "--always", "--dirty")
    return {
        "date": datetime.datetime.now().isoformat(sep=" ", timespec="minutes"),
        "CPU": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load average before": round(os.getloadavg()[0], 1),
        "vamc commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip() or "unknown",
    }


def choose(patterns: list[str]) -> list[str]:
    """Names of contestants that match any of the patterns, in the order of `ENTRIES`.

    Raises:
        SystemExit: a pattern that matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in ENTRIES):
            raise SystemExit(f"no contestant is called {pattern}; there are {', '.join(ENTRIES)}")
    return [name for name in ENTRIES if any(fnmatch(name, pattern) for pattern in patterns)]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--work", type=Path, default=Path("/tmp/vamc-peers"), help="checkpoints and converted models; kept, 15 GB")
    add("--output", type=Path, help="results, suffixes are added; default: WORK/result-SHAPE")
    add("--shape", choices=SHAPES, default="mha2048")
    add("--contestants", nargs="+", default=["*"], metavar="PATTERN", help=f"of {', '.join(ENTRIES)}")
    add("--again", nargs="+", default=[], metavar="PATTERN", help="convert or compile these anew")
    add("--prepare-only", action="store_true", help="stop when all models are converted")
    add("--rounds", type=int, default=7)
    add("--reload-every", type=int, default=0, metavar="ROUNDS", help="load models anew, on other pages of memory")
    add("--one-at-a-time", action="store_true", help="load a contestant only while it is measured, in every round")
    add("--cores", type=lambda text: [int(core) for core in text.split(",")], default=[0, 1], help="default: 0,1")
    add("--prefill-tokens", type=int, default=512)
    add("--prompt-tokens", type=int, default=32, help="before decode is measured")
    add("--decode-steps", type=int, default=32)
    add("--batch", type=int, default=1, help="also measure decode of so many prompts, at most 8")
    add("--foreign-cores", type=float, default=0.1, help="CPU of others above which a measurement is taken again")
    add("--attempts", type=int, default=3, help="how often at most")
    add("--patience", type=float, default=30.0, metavar="SECONDS", help="longest wait for others to become quiet")
    return parser.parse_args()


def draw(source: Path, target: Path) -> None:
    """Draw the plot, in the environment that has matplotlib."""
    python = HERE / ".envs" / "plot" / "bin" / "python"
    if not python.is_file():
        print("no plot: install what draws it with `python benchmarks/peers/install.py plot`")
        return
    subprocess.run([python, HERE / "plot.py", source, target], check=True)
    print(f"plot: {target}")


def write(report: Report, output: Path) -> None:
    """JSON, Markdown and plot beside each other."""
    output.parent.mkdir(parents=True, exist_ok=True)
    source, table = Path(f"{output}.json"), Path(f"{output}.md")
    source.write_text(json.dumps(as_json(report), indent=1), encoding="utf-8")
    table.write_text(as_markdown(report), encoding="utf-8")
    print(f"\n{as_markdown(report)}\nsamples: {source}\ntable: {table}")
    if report.samples:
        draw(source, Path(f"{output}.svg"))


def main() -> None:
    """Prepare, measure group by group, write."""
    options = parse()
    if options.prefill_tokens > 512 or not 1 <= options.batch <= 8:
        raise SystemExit("the contestants are set up for at most 512 prompt tokens in one step and 8 prompts")
    names, again = choose(options.contestants), choose(options.again)
    work = options.work.resolve()
    ready, skipped = prepare_all(work, options.shape, names, options.cores, again)
    if options.prepare_only:
        return
    plan = Plan(
        work=work,
        shape=options.shape,
        cores=options.cores,
        rounds=options.rounds,
        prefill_tokens=options.prefill_tokens,
        prompt_tokens=options.prompt_tokens,
        decode_steps=options.decode_steps,
        batch=options.batch,
        reload_every=options.reload_every,
        one_at_a_time=options.one_at_a_time,
        foreign_cores=options.foreign_cores,
        attempts=options.attempts,
        patience_s=options.patience,
    )
    report = Report(plan=plan, conditions=conditions(), samples=[], facts={}, memory_bytes={}, skipped=skipped)
    for group in dict.fromkeys(ENTRIES[name].group for name in ready):
        print(f"group {group}", flush=True)
        runner = Runner(plan, [name for name in ready if ENTRIES[name].group == group])
        report.samples.extend(runner.run())
        report.facts.update(runner.facts)
        report.memory_bytes.update(runner.memory_bytes)
        report.skipped.update(runner.failures)
    write(report, options.output or work / f"result-{options.shape}")


if __name__ == "__main__":
    main()
