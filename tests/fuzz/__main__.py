"""`make fuzz`: all cases of every target, or one case again.

python -m fuzz                         # every target, all its cases
python -m fuzz yaml manifest           # these
python -m fuzz yaml --seed 7           # other cases
python -m fuzz yaml --case 1234        # this case in this process, with its traceback
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from fuzz.harness import Result, run_target
from fuzz.target import case_generator, find_targets, load_target
from vamc_runtime.errors import UserError


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Mutated input against the product.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--cases", type=int, metavar="N", help="cases of each target (default: its long run)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another one gives other cases (default 0)")
    parser.add_argument("--case", type=int, metavar="K", help="run only this case, in this process")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default 2)")
    return parser.parse_args()


def _run_again(place: str, seed: int, case: int) -> int:
    """Run one case here, so that a debugger and a traceback show what is wrong."""
    target = load_target(place)
    with tempfile.TemporaryDirectory(prefix="vamc-fuzz-") as folder:
        context = target.prepare(Path(folder))
        try:
            target.run(context, case_generator(target, seed, case))
        except UserError as error:
            print(f"refused: {error}")
        else:
            print("accepted")
    return 0


def _show(console: Console, name: str, seed: int, result: Result) -> None:
    console.print(
        f"{name}: {result.num_accepted} accepted, {result.num_refused} refused, {len(result.faults)} faults",
        style="red" if result.faults else "green",
    )
    for fault in result.faults:
        console.print(f"python -m fuzz {name} --seed {seed} --case {fault.case}", style="bold")
        console.print(fault.problem, markup=False, highlight=False, soft_wrap=True)


def main() -> int:
    """Run the command line; returns 1 when a fault was found."""
    options = _parse()
    places = find_targets()
    unknown = [name for name in options.targets if name not in places]
    if unknown:
        print(f"no target {', '.join(unknown)}; there are {', '.join(sorted(places))}", file=sys.stderr)
        return 2
    chosen = options.targets or sorted(places)
    if options.case is not None:
        if len(chosen) != 1:
            print("--case needs one target", file=sys.stderr)
            return 2
        return _run_again(places[chosen[0]], options.seed, options.case)
    console = Console()
    failed = False
    for name in chosen:
        num_cases = options.cases or load_target(places[name]).num_cases
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(name, total=num_cases)
            result = run_target(
                places[name],
                num_cases,
                seed=options.seed,
                num_workers=options.workers,
                on_case=lambda task=task, progress=progress: progress.advance(task),  # type: ignore[misc]  # bound now
            )
        _show(console, name, options.seed, result)
        failed = failed or bool(result.faults)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
