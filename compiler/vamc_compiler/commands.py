"""`vamc compile`, `vamc verify`, `vamc check`: from parsed options to the functions that work, and to the screen.

What is imported here at the top is light: a mistake in the YAML or in the checkpoint's config.json is reported before
torch and TVM are loaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vamc_compiler.config import (
    BuildConfig,
    check_buildable,
    describe_obstacles,
    effective_settings,
    find_obstacles,
    flat_settings,
    load_config,
)
from vamc_compiler.model.check import check_model
from vamc_compiler.stages import Stages
from vamc_compiler.terminal import TerminalReporter
from vamc_runtime.console import print_json, print_path
from vamc_runtime.printable import printable

if TYPE_CHECKING:
    from vamc_compiler.verify.result import VerificationReport

EXIT_OUTSIDE_BUDGET = 1
"""Of `vamc verify`, and of a build whose verification fails."""


def compile(options: argparse.Namespace) -> int:
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


def verify(options: argparse.Namespace) -> int:
    """Verify a build config or a runstream; returns the exit status.

    Raises:
        UserError: anything the user can put right.
    """
    from vamc_compiler.verify.command import verify_command

    return verify_command(options)


def _relative(path: Path) -> Path:
    """The path as one would type it here."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def check(options: argparse.Namespace) -> int:
    """Validate a config and show every effective setting; returns the exit status.

    A valid config that this version cannot build yet gets a note.

    Raises:
        UserError: the config has mistakes.
    """
    config = load_config(options.config, options.overrides)
    obstacles = find_obstacles(config)
    if options.json:
        document = {
            "settings": effective_settings(config),
            "sources": dict(config.setting_sources),
            "warnings": list(config.warnings),
            "buildable": not obstacles,
            "obstacles": [dataclasses.asdict(obstacle) for obstacle in obstacles],
        }
        print_json(document)
        return 0
    _print_settings(config, options.config)
    console = Console()
    console.print(Text(f"{options.config} is valid", style="green"))
    if obstacles:
        note = f"this version cannot build it yet:\n{describe_obstacles(obstacles)}"
        console.print(Text.assemble(("note: ", "yellow"), printable(note)), soft_wrap=True)
    for obstacle in obstacles:
        if obstacle.nearest:
            console.print(Text(f"nearest that it can build: {obstacle.nearest}"), soft_wrap=True)
    return 0


def _print_settings(config: BuildConfig, typed_path: Path) -> None:
    console = Console()
    table = Table(box=None, padding=(0, 2), header_style="bold")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", no_wrap=True)
    for key, value in flat_settings(config).items():
        source = config.setting_sources[key].replace(f"{typed_path}:", "line ")
        style = "dim" if source == "default" else ""
        table.add_row(Text(key, style), Text(printable(_show(value)), style), Text(printable(source), "dim"))
    console.print(table)
    for warning in config.warnings:
        console.print(Text.assemble(("warning: ", "yellow"), printable(warning)), soft_wrap=True)


def _show(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
