"""`vamc verify`: from parsed options to the verification, and back to the screen."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from vamc_compiler.commands.status import EXIT_OUTSIDE_BUDGET
from vamc_compiler.config import BuildConfig, check_buildable, load_config
from vamc_compiler.model.check import check_model
from vamc_compiler.stages import Stages
from vamc_compiler.terminal import TerminalReporter
from vamc_runtime.console import print_json
from vamc_runtime.manifest import read_manifest

if TYPE_CHECKING:
    from vamc_compiler.verify.bisect import Case
    from vamc_compiler.verify.subject import Subject
    from vamc_compiler.verify.verification import Failure, Request

BISECTION = "bisection"
"""Folder of the subgraph, in that of the report."""


def run(options: argparse.Namespace) -> int:
    """Verify a build config or a runstream; returns the exit status: 0 within budget, 1 outside.

    Raises:
        UserError: anything the user can put right.
    """
    reporter = TerminalReporter(options.journal)
    stages = Stages(reporter)
    try:
        # A mistake in the YAML or the path is reported before torch and TVM are loaded.
        config = _check_target(options)
        with stages.stage("load compiler") as note:
            from vamc_compiler.verify.report import print_summary, write_report
            from vamc_compiler.verify.verification import verify

            note.text = "torch, TVM, onnxruntime"
        with contextlib.ExitStack() as stack:
            request = _request(options, config, stages, stack)
            bisection = _Bisection(request.subject, _case_folder(options, request.subject))
            outcome = verify(request, stages, bisection if options.bisect else None)
    finally:
        reporter.close()
    report = outcome.report
    # What was found is the command's output; beside JSON, what is for people joins the progress.
    console = reporter.console if options.json else Console(highlight=False)
    if options.report is not None:
        page = write_report(report, options.report)
        console.print(Text.assemble(("report: ", "bold"), str(page)), soft_wrap=True)
    if options.json:
        print_json(report.to_dict())
    else:
        print_summary(report, console)
    if options.bisect:
        bisection.show(console, passed=report.passed)
    return 0 if report.passed else EXIT_OUTSIDE_BUDGET


def _check_target(options: argparse.Namespace) -> BuildConfig | None:
    """The config, where the target is one; None for a runstream."""
    if options.target.is_dir():
        read_manifest(options.target)
        return None
    config = load_config(options.target, options.overrides)
    check_buildable(config)
    check_model(config, trust_checkpoint_code=options.trust_checkpoint_code)
    return config


def _case_folder(options: argparse.Namespace, subject: Subject) -> Path:
    if options.report is not None:
        return Path(options.report) / BISECTION
    return Path.cwd() / f"{subject.manifest.name}-{BISECTION}"


def _request(
    options: argparse.Namespace, config: BuildConfig | None, stages: Stages, stack: contextlib.ExitStack
) -> Request:
    """What to verify: a config is compiled first; a model over ranks is compiled for one rank besides."""
    from vamc_compiler.verify.build import build_subject, on_one_rank, scratch_folder
    from vamc_compiler.verify.subject import open_subject
    from vamc_compiler.verify.verification import Request

    trust = options.trust_checkpoint_code
    if config is not None:
        scratch = stack.enter_context(scratch_folder(config.workspace.path, stages))
        subject = build_subject(config, scratch / "all", stages, trust_checkpoint_code=trust)
    else:
        scratch = stack.enter_context(scratch_folder(options.target.resolve().parent, stages))
        subject = open_subject(options.target, options.overrides, scratch, stages, trust_checkpoint_code=trust)
    single = None
    if subject.num_ranks > 1:
        config = on_one_rank(subject.config)
        single = build_subject(config, scratch / "single", stages, trust_checkpoint_code=trust)
    return Request(subject=subject, single=single, trust_checkpoint_code=trust)


class _Bisection:
    """Narrows the first failure down while its stages are open, and says so at the end."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self._subject = subject
        self._folder = folder
        self._case: Case | None = None
        self._failed = False

    def __call__(self, failure: Failure) -> None:
        """Called with the first pair outside its budget."""
        from vamc_compiler.verify.bisect import bisect

        self._failed = True
        self._case = bisect(failure, self._subject, self._folder)

    def show(self, console: Console, *, passed: bool) -> None:
        """Where the subgraph lies and how to run it."""
        if self._case is not None:
            console.print(Text.assemble(("smallest subgraph: ", "bold"), ", ".join(self._case.nodes)), soft_wrap=True)
            console.print(f"run it: python {self._case.folder / 'reproduce.py'}", soft_wrap=True)
        elif self._failed:
            console.print("no block is wrong by itself: there is no subgraph to cut out", soft_wrap=True)
        elif passed:
            console.print("nothing to bisect: every comparison is within its budget", soft_wrap=True)
        else:
            console.print("no stage that runs is outside its budget: there is no subgraph to cut out", soft_wrap=True)
