"""The certificate of a build: a short verification of what was just compiled, written into it."""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vamc_compiler.package import toolchain_versions
from vamc_compiler.stages import Reporter, SilentReporter, Stages
from vamc_compiler.verify.faults import excluded, left_open
from vamc_compiler.verify.result import VerificationReport
from vamc_compiler.verify.subject import Subject
from vamc_runtime.certificate import SCHEMA_VERSION, Certificate, Figure, Status, golden_of
from vamc_runtime.errors import UserError
from vamc_runtime.machine import cpu_model

if TYPE_CHECKING:
    from vamc_compiler.verify.verification import Outcome, Request

GOLDEN_TOKENS = 32
"""Positions that a self-test on another CPU compares."""


class VerificationFailedError(Exception):
    """What was compiled is not what it should be; nothing was published."""

    def __init__(self, report: VerificationReport) -> None:
        super().__init__(f"verification of {report.name} failed")
        self.report = report


@dataclass(frozen=True)
class Certified:
    """The certificate, and the report behind it."""

    certificate: Certificate
    report: VerificationReport | None
    """None where nothing was verified."""


def certify(subject: Subject, stages: Stages, *, trust_checkpoint_code: bool) -> Certified:
    """Verify a build as its config says.

    Raises:
        VerificationFailedError: it is outside its budget.
        UserError: the text for the verification, or the checkpoint's code, cannot be used.
    """
    if subject.config.verify.when == "off":
        return Certified(_without(subject, "off", "verify.when is off"), None)
    from vamc_compiler.verify.verification import SHORT, STORED, Request, budget_of

    obstacle = _obstacle(subject)
    if obstacle:
        stages.reporter.warn(f"the runstream is not verified, except for its weights: {obstacle}")
    # The original runs twice: reading its weights again costs less than a build that needs memory for the model.
    request = Request(
        subject=subject,
        parts=STORED if obstacle else SHORT,
        trust_checkpoint_code=trust_checkpoint_code,
        share_bytes=0,
    )
    with stages.stage("verify") as note:
        outcome = _verify(request, Stages(_Within(stages.reporter)))
        report = outcome.report
        failed = sum(not pair.passed for pair in report.pairs)
        note.text = f"{failed} of {len(report.pairs)} comparisons outside budget" if failed else _summary(report)
    if not report.passed:
        raise VerificationFailedError(report)
    certificate = dataclasses.replace(
        _without(subject, "skipped" if obstacle else "passed", obstacle),
        figures=_figures(report),
        excludes=excluded(report),
    )
    if obstacle:
        return Certified(certificate, report)
    assert outcome.golden_logits is not None and outcome.tokens is not None, "a compiled stage ran"
    ids = outcome.tokens.sequences[0][:GOLDEN_TOKENS]
    certificate = dataclasses.replace(
        certificate,
        reference=report.reference,
        tokens=report.tokens.description,
        num_tokens=report.tokens.num_tokens,
        token_digest=report.tokens.digest,
        leaves_open=left_open(report),
        library=report.library,
        golden=golden_of(
            ids,
            outcome.golden_logits[: len(ids)],
            budget_of(subject.config).golden_tolerance,
            f"compiled for {report.library}",
        ),
    )
    return Certified(certificate, report)


def _figures(report: VerificationReport) -> tuple[Figure, ...]:
    """Every figure that has a bound, in the order of the stages."""
    return tuple(
        Figure(
            pair=f"{pair.before} -> {pair.after} ({pair.check})",
            name=line.name,
            value=line.value,
            limit=line.limit,
            at_least=line.at_least,
        )
        for pair in report.pairs
        for line in pair.budgets
    )


def _verify(request: Request, stages: Stages) -> Outcome:
    """Verify; where the checkpoint's own code was trusted for its modeling file and does not run as reference, without.

    Published code is often written for older versions of transformers than today's: no reason to refuse the build.
    """
    from vamc_compiler.verify.reference_code import OwnCodeError
    from vamc_compiler.verify.verification import verify

    try:
        return verify(request, stages)
    except OwnCodeError as error:
        stages.reporter.warn(f"{error.found}; verifying against another reference")
        return verify(dataclasses.replace(request, trust_checkpoint_code=False), stages)


class _Within(SilentReporter):
    """For a verification that is one stage of a build: only its warnings are shown."""

    def __init__(self, outer: Reporter) -> None:
        self._outer = outer

    def warn(self, message: str) -> None:
        """Pass it on."""
        self._outer.warn(message)


def _summary(report: VerificationReport) -> str:
    """The figure that says most, and against what."""
    found = [pair.metrics.kl_mean for pair in report.pairs if pair.metrics and pair.check == "prefill"]
    if not found:
        return "weights as in the checkpoint"
    kl = found[-1]
    return f"mean KL {kl:.1e} against {report.reference or 'the modeling file'}, {report.tokens.num_tokens} tokens"


def _obstacle(subject: Subject) -> str:
    """Why this machine cannot run what it compiled; empty when it can."""
    from vamc_runtime.ranks.remote import find_mpiexec
    from vamc_runtime.runstream import choose_library, open_runstream

    try:
        choose_library(open_runstream(subject.runstream))
    except UserError:
        return f"this CPU ({cpu_model()}) cannot run what was compiled for another one"
    if subject.num_ranks > 1:
        try:
            find_mpiexec()
        except UserError as error:
            return f"{error.found} ({error.fix})"
    return ""


def _without(subject: Subject, status: Status, reason: str) -> Certificate:
    """A certificate that says what was compiled, and nothing about how right it is."""
    return Certificate(
        schema_version=SCHEMA_VERSION,
        status=status,
        reason=reason,
        reference="",
        tokens="",
        num_tokens=0,
        token_digest="",
        figures=(),
        excludes=(),
        leaves_open=(),
        checkpoint_digest=subject.manifest.checkpoint.digest,
        toolchain=toolchain_versions(),
        cpu=cpu_model(),
        library="",
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        golden=None,
    )
