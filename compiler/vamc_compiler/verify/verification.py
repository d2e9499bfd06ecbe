"""The whole verification: every stage of one build run on the same tokens, compared pair by pair.

The order of the pairs is that of the stages: the first one outside its budget is where to look.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from vamc_compiler.config import BuildConfig
from vamc_compiler.graph import PAGE_TOKENS
from vamc_compiler.package import toolchain_versions
from vamc_compiler.precision import ModelPrecision, multiplies_in_bfloat16
from vamc_compiler.stages import Stages
from vamc_compiler.verify.blocks import BlockLimit
from vamc_compiler.verify.budgets import Budget, default_budget
from vamc_compiler.verify.compare import Decode, Form, Runner, Setting, compare_forms
from vamc_compiler.verify.compiled_stage import CompiledStage
from vamc_compiler.verify.memory import return_freed_memory
from vamc_compiler.verify.other_pairs import GREEDY_PROMPT_TOKENS, GREEDY_TOKENS, compare_greedy, compare_weights
from vamc_compiler.verify.result import BudgetLine, Location, PairResult, VerificationReport
from vamc_compiler.verify.run import Array
from vamc_compiler.verify.stage_opener import StageOpener, count_ranks, memory_share
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.taps import plan_taps
from vamc_compiler.verify.tokens import Tokens, tokens_of
from vamc_runtime.errors import UserError
from vamc_runtime.machine import cpu_model
from vamc_runtime.resources import raise_lack
from vamc_runtime.runstream import TOKENIZER_FOLDER
from vamc_runtime.text.tokenizer import load_tokenizer

Part = Literal["reference", "modeling", "graphs", "weights", "compiled"]
EVERYTHING: frozenset[Part] = frozenset(("reference", "modeling", "graphs", "weights", "compiled"))
SHORT: frozenset[Part] = frozenset(("reference", "weights", "compiled"))
"""What a build does by default: the checkpoint's weights against the stored ones, the original against what was
compiled."""

STORED: frozenset[Part] = frozenset(("weights",))
"""What a build can do on a CPU that does not run what was compiled."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to verify, and how much of it."""

    subject: Subject
    single: Subject | None = None
    """The same model compiled for one rank; None where `subject` is that, or to leave it out."""
    parts: frozenset[Part] = EVERYTHING
    """Which stages."""
    trust_checkpoint_code: bool = False
    """Run the checkpoint's own code as reference."""
    share_bytes: int | None = None
    """What each stage may keep of the weights; None for an eighth of the free memory."""


@dataclass(frozen=True)
class Failure:
    """A pair outside its budget, with its stages still open."""

    result: PairResult
    runner: Runner
    before: Form
    after: Form
    block_limit: BlockLimit


@dataclass
class Outcome:
    """What came out."""

    report: VerificationReport
    golden_logits: Array | None = None
    """float32 [t, v] of the compiled model for the first sequence, or None where nothing was compiled."""
    tokens: Tokens | None = None


def verify(request: Request, stages: Stages, on_failure: Callable[[Failure], None] | None = None) -> Outcome:
    """Run every stage and compare.

    Args:
        request: what to verify.
        stages: told about progress.
        on_failure: called with the first pair that fails, while its stages can still be run (bisection).

    Raises:
        UserError: the text, the checkpoint's code or the runstream cannot be used.
    """
    start = time.perf_counter()
    return_freed_memory()
    subject = request.subject
    tokens = tokens_of(subject.config, subject.runstream / TOKENIZER_FOLDER, subject.source.config.vocab_size)
    with contextlib.ExitStack() as stack:
        verification = _Verification(request, tokens, stages, stack, on_failure)
        verification.run()
    return Outcome(verification.report(time.perf_counter() - start), verification.golden_logits, tokens)


def budget_of(config: BuildConfig) -> Budget:
    """The bounds of a build: the defaults for what its kernels compute in, where the config does not replace them."""
    defaults = default_budget(ModelPrecision.of(config), bfloat16_prefill=multiplies_in_bfloat16(config))
    return defaults.overridden(config.verify.budget)


def _decoder(subject: Subject) -> Decode:
    """Token ids to text; the ids themselves where there is no tokenizer."""
    try:
        tokenizer = load_tokenizer(subject.runstream / TOKENIZER_FOLDER)
    except UserError:
        return lambda ids: " ".join(map(str, ids))
    return lambda ids: tokenizer.decode(list(ids))


@dataclass
class _Verification:
    """One verification while it runs."""

    request: Request
    tokens: Tokens
    stages: Stages
    stack: contextlib.ExitStack
    on_failure: Callable[[Failure], None] | None
    pairs: list[PairResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reference_name: str = ""
    close_reference: Callable[[], None] = lambda: None
    library: str = ""
    golden_logits: Array | None = None

    def __post_init__(self) -> None:
        subject = self.request.subject
        self.subject = subject
        self.budget: Budget = budget_of(subject.config)
        plan = plan_taps(subject.graphs[0].model(), subject.parameters)
        share = memory_share() if self.request.share_bytes is None else self.request.share_bytes
        self.opener = StageOpener(subject, plan, share, self.stack)
        self.runner = Runner(
            Setting(plan=plan, sequences=self.tokens.sequences, page_tokens=PAGE_TOKENS, decode=_decoder(subject))
        )

    def run(self) -> None:
        """Every pair, in the order of the stages."""
        parts = self.request.parts
        reference = self._open_reference() if "reference" in parts else None
        single = self._modeling_on_one_rank(reference) if "modeling" in parts else None
        last = single or reference
        if single is not None:
            last = self._modeling_over_ranks(single)
        self.opener.release("one rank")
        if "graphs" in parts:
            modeling = last or self.opener.modeling_on_one_rank()
            last = self._graphs(modeling)
            if modeling not in (reference, single):
                self.runner.forget(modeling)
        self.opener.release("ranks")
        if self.request.single is not None and "compiled" in parts and single is not None:
            self._compiled_on_one_rank(single, self.request.single)
        if "weights" in parts:
            self._weights()
        if "compiled" in parts:
            self._compiled(last or self.opener.modeling_on_one_rank(), reference)

    def _open_reference(self) -> Form | None:
        opened = self.opener.original(trust_checkpoint_code=self.request.trust_checkpoint_code)
        if opened is None:
            self._warn(
                "there is no independent reference for this model: the first stage is the modeling file itself. "
                "With --trust-checkpoint-code the checkpoint's own code is the reference, where it has some"
            )
            return None
        form, self.reference_name, self.close_reference = opened
        return form

    def _modeling_on_one_rank(self, reference: Form | None) -> Form:
        """First in float32, where nothing but a mistake makes a difference, then with the weights that are stored."""
        unrounded = self.opener.modeling_in_float32()
        if reference is not None:
            self._compare(reference, unrounded, "prefill", self.budget.modeling)
            self.close_reference()
        single = self.opener.modeling_on_one_rank()
        self._compare(unrounded, single, "prefill", self.budget.rounding)
        self.runner.forget(unrounded)
        self.opener.release("float32")
        return single

    def _modeling_over_ranks(self, single: Form) -> Form:
        last = single
        if self.subject.num_ranks > 1:
            last = self.opener.modeling_over_ranks()
            self._compare(single, last, "prefill", self.budget.exact)
        self._other_ways(last, self.budget.exact)
        return last

    def _graphs(self, previous: Form) -> Form:
        exported, simplified = self.opener.exported(), self.opener.simplified()
        self._compare(previous, exported, "prefill", self.budget.exact)
        self._compare(exported, simplified, "prefill", self.budget.exact)
        self.runner.forget(exported)
        self._other_ways(simplified, self.budget.exact)
        return simplified

    def _open_compiled(self, subject: Subject) -> CompiledStage:
        longest = max(map(len, self.tokens.sequences))
        generated = min(GREEDY_PROMPT_TOKENS + GREEDY_TOKENS, subject.manifest.limits.max_context_tokens)
        stage, self.library = self.opener.compiled(subject, max(longest, generated))
        return stage

    def _compiled_on_one_rank(self, before: Form, single: Subject) -> None:
        with self._may_fail(before.name, "compiled, 1 rank"):
            form = self.opener.whole(self._open_compiled(single))
            self._compare(before, form, "prefill", self.budget.compiled)
            self.runner.forget(form)

    def _compiled(self, previous: Form, reference: Form | None) -> None:
        with self._may_fail(previous.name, f"compiled, {count_ranks(self.subject.num_ranks)}"):
            stage = self._open_compiled(self.subject)
            form = self.opener.whole(stage)
            if previous is not reference:
                self._compare(previous, form, "prefill", self.budget.compiled)
            self._other_ways(form, self.budget.compiled)
            if reference is not None:
                self._compare(reference, form, "prefill", self.budget.end_to_end)
            self._greedy(reference or previous, stage)
            self.golden_logits = self.runner.streams(form)[0].logits

    def _other_ways(self, form: Form, block_limit: BlockLimit) -> None:
        """Chunked prefill and cached decode against one prefill of the same stage."""
        self._compare(form, self.opener.chunked(form.stage), "chunked prefill", block_limit)
        self._compare(form, self.opener.decoded(form.stage), "cached decode", block_limit)

    def _compare(self, before: Form, after: Form, check: str, block_limit: BlockLimit) -> None:
        """One pair, noted and reported; the first that fails may be bisected."""
        with self._may_fail(before.name, after.name, check), self.stages.stage(_stage_name(after, check)) as note:
            result = compare_forms(self.runner, before, after, self.budget, check=check, block_limit=block_limit)
            note.text = _verdict(result)
            self.pairs.append(result)
            if not result.passed and self.on_failure is not None:
                on_failure, self.on_failure = self.on_failure, None
                on_failure(Failure(result, self.runner, before, after, block_limit))
        if after.label:
            self.runner.forget(after)

    def _greedy(self, before: Form, stage: CompiledStage) -> None:
        with self.stages.stage("greedy tokens") as note:
            context = self.subject.manifest.limits.max_context_tokens
            result = compare_greedy(before, stage, self.tokens.sequences[0], context, self.budget)
            self.pairs.append(result)
            count, first = result.num_greedy_tokens, result.first_divergence
            note.text = f"{count} equal" if first is None else f"{first} of {count} before the first other one"

    def _weights(self) -> None:
        with self.stages.stage("weights of the ranks") as note:
            reporter = self.stages.reporter
            result = compare_weights(self.subject, lambda done, total: reporter.progress(done, total, "weights"))
            self.pairs.append(result)
            differ = int(result.budgets[0].value)
            note.text = f"{differ} tensors differ" if differ else "each as in the checkpoint"

    @contextlib.contextmanager
    def _may_fail(self, before: str, after: str, check: str = "prefill") -> Iterator[None]:
        """A stage that cannot run is a finding, not the end of the report."""
        try:
            yield
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise_lack(error)
            cause = error.__cause__ or error
            self.pairs.append(
                PairResult(
                    before=before,
                    after=after,
                    check=check,
                    budgets=(BudgetLine(name="the stage ran", value=0, limit=1, at_least=True),),
                    location=Location(stage=after, detail=f"{type(cause).__name__}: {cause}"),
                )
            )

    def _warn(self, message: str) -> None:
        """For the terminal and the report."""
        self.warnings.append(message)
        self.stages.reporter.warn(message)

    def report(self, seconds: float) -> VerificationReport:
        """Everything that was found."""
        subject = self.subject
        quantize = subject.config.frontend.quantize
        return VerificationReport(
            name=subject.manifest.name,
            model=subject.source.label,
            precision=subject.config.backend.dtype if quantize is None else quantize.type,
            num_ranks=subject.num_ranks,
            tokens=self.tokens.source,
            reference=self.reference_name,
            pairs=tuple(self.pairs),
            checkpoint_digest=subject.manifest.checkpoint.digest,
            toolchain=toolchain_versions(),
            cpu=cpu_model(),
            library=self.library,
            date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            seconds=seconds,
            warnings=tuple(self.warnings),
        )


def _stage_name(after: Form, check: str) -> str:
    return after.stage.name if check == "prefill" else f"{after.stage.name}: {check}"


def _verdict(result: PairResult) -> str:
    worst = result.worst_block
    figures = [] if result.metrics is None else [f"mean KL {result.metrics.kl_mean:.1e}"]
    if worst is not None and worst.isolated is not None:
        figures.append(f"{worst.block} {worst.isolated:.1e}")
    return ("" if result.passed else "outside its budget: ") + ", ".join(figures)
