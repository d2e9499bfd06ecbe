"""`vamc compile`: from parsed options to the build, and to the screen."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from vamc_compiler.commands.status import EXIT_OUTSIDE_BUDGET
from vamc_compiler.config import check_buildable, load_config
from vamc_compiler.model.check import check_model
from vamc_compiler.stages import Stages
from vamc_compiler.terminal import TerminalReporter
from vamc_runtime.console import print_json, print_path

if TYPE_CHECKING:
    from vamc_compiler.verify.result import VerificationReport


def run(options: argparse.Namespace) -> int:
    """Build a runstream; returns the exit status.

    Raises:
        UserError: anything the user can put right; nothing is published then.
    """
    config = load_config(options.config, options.overrides)
    check_buildable(config)
    check_model(config, trust_checkpoint_code=options.trust_checkpoint_code)  # its warnings come with the build
    reporter = TerminalReporter(options.journal)
    start = time.perf_counter()
    try:
        with Stages(reporter).stage("load compiler") as note:
            from vamc_compiler.compile import CompileRequest, compile_model
            from vamc_compiler.verify.certify import VerificationFailedError

            note.text = "torch, TVM"
        request = CompileRequest(
            config=config,
            trust_checkpoint_code=options.trust_checkpoint_code,
            keep_intermediates=options.keep_intermediates,
        )
        try:
            result = compile_model(request, reporter)
        except VerificationFailedError as failure:
            reporter.close()
            return _show_failure(failure.report, options, reporter)
    finally:
        reporter.close()
    seconds = time.perf_counter() - start
    if options.json:
        summary = {
            "runstream": str(result.path),
            "seconds": round(seconds, 3),
            "stages": {name: round(value, 3) for name, value in result.seconds.items()},
        }
        print_json(summary)
        return 0
    shown = _relative(result.path)
    reporter.console.print(Text.assemble(("done ", "bold green"), f"in {seconds:.1f} s"))
    print_path(shown)
    reporter.console.print(f'try it: vamc run {shlex.quote(str(shown))} --prompt "..."', soft_wrap=True)
    return 0


def _show_failure(report: VerificationReport, options: argparse.Namespace, reporter: TerminalReporter) -> int:
    """Say what is outside its budget, and that nothing was published; returns the exit status."""
    from vamc_compiler.verify.report import print_summary

    if options.json:
        print_json(report.to_dict())
    print_summary(report, reporter.console)
    reporter.console.print(
        "nothing was published. To look into it: vamc verify CONFIG --bisect --report DIR. To publish all the same: "
        "larger bounds under verify.budget, or verify.when: off",
        soft_wrap=True,
    )
    return EXIT_OUTSIDE_BUDGET


def _relative(path: Path) -> Path:
    """The path as one would type it here."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
