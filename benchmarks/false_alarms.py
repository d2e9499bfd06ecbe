"""How far right builds use their budgets: `python benchmarks/false_alarms.py RESULTS.jsonl`.

Random models of every architecture are compiled in every precision and verified; each line of the file is one
verification. Those that the file already has are skipped, so that a run can be continued. `--wide` takes models of
published widths instead of small ones, `--demo` the demo checkpoints. `--table` prints what the file holds as Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "numerics"))

from random_models import (  # noqa: E402
    PRECISIONS,
    SMALL,
    STYLES,
    baichuan7b,
    baichuan13b,
    compile_template,
    llama,
)

from vamc_compiler.compile import CompileRequest, build_runstream, check_inputs, subject_of  # noqa: E402
from vamc_compiler.config import load_config  # noqa: E402
from vamc_compiler.stages import SilentReporter, Stages  # noqa: E402
from vamc_compiler.verify.subject import Subject  # noqa: E402
from vamc_compiler.verify.verification import EVERYTHING, SHORT, Request, verify  # noqa: E402

NUM_SEEDS, SINGLE_SEEDS = 20, 15
TOKENS = 256
WIDE = {
    "LLaMA": llama(2048, 5632, 16, 2, 4000, num_key_value_heads=4),
    "Baichuan 7B": baichuan7b(1024, 2816, 8, 2, 4000),
    "Baichuan 13B": baichuan13b(1280, 3456, 10, 2, 4000),
}
DEMO = {
    "LLaMA": ("llama", ""),
    "Baichuan 7B": ("baichuan7b", ""),
    "Baichuan 13B": ("baichuan", ""),
}
DEMO_CHANGES = {
    "fp16": ("fp16", []),
    "bf16": ("fp16", ["backend.dtype=bf16"]),
    "int8_per_channel": ("int8", []),
    "w8a8_dynamic": ("int8", ["frontend.quantize.type=w8a8_dynamic"]),
}
Case = dict[str, Any]


def small_cases() -> Iterator[tuple[Case, int, dict[str, Any]]]:
    """Every architecture and precision: two shapes, 15 seeds on one rank and 5 on two."""
    for number, precision in enumerate(PRECISIONS):
        for architecture, shapes in SMALL.items():
            for half in range(2):
                shape = (2 * number + half) % len(shapes)
                for seed in range(NUM_SEEDS)[half * SINGLE_SEEDS : SINGLE_SEEDS + half * NUM_SEEDS]:
                    case = {"kind": "random", "architecture": architecture, "shape": shape, "precision": precision}
                    yield case | {"tp": half + 1}, seed, shapes[shape]


def wide_cases() -> Iterator[tuple[Case, int, dict[str, Any]]]:
    """Published widths, every style of weights."""
    for precision in PRECISIONS:
        for architecture, config in WIDE.items():
            for seed in range(len(STYLES)):
                case = {"kind": "wide", "architecture": architecture, "shape": 0, "precision": precision, "tp": 1}
                yield case, seed, config


def demo_cases() -> Iterator[Case]:
    """The demo checkpoints on one rank and on two."""
    for precision in PRECISIONS:
        for architecture in DEMO:
            for tp in (1, 2):
                yield {"kind": "demo", "architecture": architecture, "shape": 0, "precision": precision, "tp": tp}


def demo_subject(case: Case, folder: Path) -> Subject:
    """A demo checkpoint, compiled."""
    dtype, changes = DEMO_CHANGES[case["precision"]]
    path = REPOSITORY / "build_in" / "build" / f"hf_{DEMO[case['architecture']][0]}_{dtype}.yaml"
    config = load_config(path, [*changes, f"frontend.model_kwargs.tp={case['tp']}", "workspace.workers=1"])
    request, reporter = CompileRequest(config=config), SilentReporter()
    inputs = check_inputs(request, reporter)
    folder.mkdir()
    return subject_of(config, inputs, build_runstream(request, inputs, folder, Stages(reporter)))


def measure(subject: Subject, *, short: bool) -> dict[str, Any]:
    """One verification, of all stages or as a build does it."""
    start = time.perf_counter()
    request = Request(subject=subject, parts=SHORT if short else EVERYTHING)
    report = verify(request, Stages(SilentReporter())).report
    pairs = [
        {
            "before": pair.before,
            "after": pair.after,
            "check": pair.check,
            "lines": {line.name: (line.value, line.limit, line.passed) for line in pair.budgets},
            "metrics": None if pair.metrics is None else dataclasses.asdict(pair.metrics),
            "blocks": [(block.block, block.isolated, block.isolated_rms) for block in pair.blocks],
        }
        for pair in report.pairs
    ]
    return {"passed": report.passed, "seconds": time.perf_counter() - start, "pairs": pairs}


def run(results: Path, kind: str, only: tuple[str, ...]) -> None:
    """Measure what the file lacks."""
    text = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    done = {_key(json.loads(line)) for line in text}
    cases = {"random": small_cases, "wide": wide_cases}.get(kind)
    entries = [(case, 0, {}) for case in demo_cases()] if cases is None else list(cases())
    template: tuple[Case, Any] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for number, (case, seed, config) in enumerate(entries):
            entry = case | {"seed": seed}
            if _key(entry) in done or (only and case["precision"] not in only):
                continue
            if kind == "demo":
                subject = demo_subject(case, Path(folder) / str(number))
            else:
                if template is None or template[0] != case:
                    place = Path(folder) / str(number)
                    compiled = compile_template(place, config, case["precision"], tp=case["tp"], tokens=TOKENS)
                    template = case, compiled
                subject = template[1].with_seed(seed)
            # All stages once for each style of weights; the others as a build verifies itself.
            entry |= measure(subject, short=kind == "random" and seed >= len(STYLES) and seed != SINGLE_SEEDS + 1)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            print(_key(entry), "passed" if entry["passed"] else "FAILED", f"{entry['seconds']:.1f} s", flush=True)


def _key(entry: Case) -> tuple[Any, ...]:
    return tuple(entry[name] for name in ("kind", "architecture", "shape", "precision", "tp", "seed"))


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--wide", dest="kind", action="store_const", const="wide", default="random")
    parser.add_argument("--demo", dest="kind", action="store_const", const="demo")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, default=[])
    given = parser.parse_args()
    run(given.results, given.kind, tuple(given.precision))


if __name__ == "__main__":
    main()
