"""How far right builds use their budgets: `python benchmarks/false_alarms.py RESULTS.jsonl`.

Random models of every architecture are compiled in every precision and verified; each line of the file is one
verification. Those that the file already has are skipped, so that a run can be continued. `--wide` takes models of
published widths instead of small ones. `--table` prints what the file holds as Markdown, with how much of the default
budgets it uses. (What the demo checkpoints use stands in docs/numerics.md.)
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
# The random models are the tests'; their folder has to be on the path before the import.
sys.path.insert(0, str(REPOSITORY / "tests" / "numerics"))

from random_models import (  # noqa: E402
    PRECISIONS,
    SMALL,
    STYLES,
    Template,
    baichuan7b,
    baichuan13b,
    compile_template,
    llama,
)

from vamc_compiler.precision import ModelPrecision  # noqa: E402
from vamc_compiler.stages import SilentReporter, Stages  # noqa: E402
from vamc_compiler.verify.budgets import default_budget  # noqa: E402
from vamc_compiler.verify.result import FLOAT32_STAGE  # noqa: E402
from vamc_compiler.verify.subject import Subject  # noqa: E402
from vamc_compiler.verify.verification import EVERYTHING, SHORT, Request, verify  # noqa: E402

NUM_SEEDS, SINGLE_SEEDS = 20, 15
TOKENS = 256
WIDE_SEEDS = (0, 3)
WIDE = {
    "LLaMA": llama(2048, 5632, 16, 2, 4000, num_key_value_heads=4),
    "Baichuan 7B": baichuan7b(1024, 2816, 8, 2, 4000),
    "Baichuan 13B": baichuan13b(1280, 3456, 10, 2, 4000),
}
PRECISION_OF = {
    "fp16": ModelPrecision(),
    "bf16": ModelPrecision(unquantized="bfloat16"),
    "int8_per_channel": ModelPrecision(quantization="int8_per_channel"),
    "w8a8_dynamic": ModelPrecision(quantization="w8a8_dynamic"),
}
BOUNDS = (
    "mean_kl",
    "same_top",
    "perplexity_ratio",
    "modeling_error",
    "rounding_error",
    "block_error",
    "rounding_error + block_error",
    "exact_error",
)
NAMES = {"same_top": "1 - same_top", "perplexity_ratio": "perplexity_ratio - 1"}
Case = dict[str, Any]


def small_cases(first_seed: int) -> Iterator[tuple[Case, int, dict[str, Any]]]:
    """Every architecture and precision: two shapes, 15 seeds on one rank and 5 on two."""
    seeds = range(first_seed, first_seed + NUM_SEEDS)
    for number, precision in enumerate(PRECISIONS):
        for architecture, shapes in SMALL.items():
            for half in range(2):
                shape = (2 * number + half) % len(shapes)
                for seed in seeds[half * SINGLE_SEEDS : SINGLE_SEEDS + half * NUM_SEEDS]:
                    case = {"kind": "random", "architecture": architecture, "shape": shape, "precision": precision}
                    yield case | {"tp": half + 1}, seed, shapes[shape]


def wide_cases() -> Iterator[tuple[Case, int, dict[str, Any]]]:
    """Published widths, plain weights and outlier channels among others."""
    for precision in PRECISIONS:
        for architecture, config in WIDE.items():
            for seed in WIDE_SEEDS:
                case = {"kind": "wide", "architecture": architecture, "shape": 0, "precision": precision, "tp": 1}
                yield case, seed, config


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


def run(results: Path, *, wide: bool, only: tuple[str, ...], first_seed: int) -> None:
    """Measure what the file lacks."""
    done = {_key(entry) for entry in read(results)}
    template: tuple[Case, Template] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for number, (case, seed, config) in enumerate(wide_cases() if wide else small_cases(first_seed)):
            entry = case | {"seed": seed}
            if _key(entry) in done or (only and case["precision"] not in only):
                continue
            if template is None or template[0] != case:
                place = Path(folder) / str(number)
                compiled = compile_template(place, config, case["precision"], tp=case["tp"], tokens=TOKENS)
                template = case, compiled
            # All stages once for each style of weights; the others as a build verifies itself.
            place_in_row = seed - first_seed
            short = not wide and place_in_row >= len(STYLES) and place_in_row != SINGLE_SEEDS + 1
            entry |= measure(template[1].with_seed(seed), short=short)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            print(_key(entry), "passed" if entry["passed"] else "FAILED", f"{entry['seconds']:.1f} s", flush=True)


def read(results: Path) -> list[Case]:
    """What the file holds; nothing where there is none."""
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []


def _key(entry: Case) -> tuple[Any, ...]:
    return tuple(entry[name] for name in ("kind", "architecture", "shape", "precision", "tp", "seed"))


def figures(entry: Case) -> Iterator[tuple[str, float]]:
    """Every budget's name with a value that it bounds."""
    for pair in entry["pairs"]:
        if pair["metrics"] is None:
            continue
        metrics = pair["metrics"]
        greedy = pair["check"] == "greedy tokens"
        yield "same_top", 1 - metrics["same_decided"]
        if greedy:
            continue
        yield "mean_kl", metrics["kl_mean"]
        yield "perplexity_ratio", metrics["perplexity_ratio_low"] - 1
        isolated = [error for _, error, _ in pair["blocks"] if error is not None]
        compiled = pair["after"].startswith("compiled")
        if pair["before"] == "original":
            bound = "rounding_error + block_error" if compiled else "modeling_error"
        elif pair["before"] == FLOAT32_STAGE:
            bound = "rounding_error"
        else:
            bound = "block_error" if compiled else "exact_error"
        yield bound, max(isolated)


def table(entries: list[Case]) -> str:
    """The largest value of every figure, by precision and kind of model, beside its default bound."""
    kinds = [kind for kind in ("random", "wide") if any(entry["kind"] == kind for entry in entries)]
    largest: dict[tuple[str, str, str], float] = {}
    for entry in entries:
        for name, value in figures(entry):
            key = name, entry["precision"], entry["kind"]
            largest[key] = max(largest.get(key, 0.0), value)
    lines = ["| | " + " | ".join(PRECISIONS) + " |", "|---|" + "---:|" * len(PRECISIONS)]
    for name in BOUNDS:
        cells = []
        for precision in PRECISIONS:
            budget = default_budget(PRECISION_OF[precision], bfloat16_prefill=False)
            limit = sum(getattr(budget, part) for part in name.split(" + "))
            limit = {"same_top": 1 - limit, "perplexity_ratio": limit - 1}.get(name, limit)
            values = " / ".join(f"{largest.get((name, precision, kind), 0.0):.1e}" for kind in kinds)
            cells.append(f"{values} ({limit:.1e})")
        lines.append(f"| {NAMES.get(name, name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, default=[])
    parser.add_argument("--first-seed", type=int, default=0, help="of the small models; later ones are fresh")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(table(read(given.results)))
    else:
        run(given.results, wide=given.wide, only=tuple(given.precision), first_seed=given.first_seed)


if __name__ == "__main__":
    main()
