"""The whole verification: every stage of one build run on the same tokens, compared pair by pair.

The order of the pairs is that of the stages: the first one outside its budget is where to look.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vamc_compiler.graph import PAGE_TOKENS, RankGraph, parse_model
from vamc_compiler.package import toolchain_versions
from vamc_compiler.parameters import ParameterSpec
from vamc_compiler.stages import Stages
from vamc_compiler.verify.blocks import BlockLimit
from vamc_compiler.verify.budgets import Budget, default_budget, greedy_lines
from vamc_compiler.verify.compare import Form, Runner, Setting, compare_forms
from vamc_compiler.verify.compiled_stage import CompiledStage
from vamc_compiler.verify.graph_stage import GraphStage
from vamc_compiler.verify.memory import return_freed_memory
from vamc_compiler.verify.metrics import compare_logits
from vamc_compiler.verify.modeling_stage import ModelingStage
from vamc_compiler.verify.parameters import RankParameters
from vamc_compiler.verify.reference import open_reference
from vamc_compiler.verify.reference_stage import ReferenceStage
from vamc_compiler.verify.result import BudgetLine, Location, PairResult, VerificationReport
from vamc_compiler.verify.run import Array, Stage
from vamc_compiler.verify.steps import decode_chunks, even_chunks, odd_chunks, plan_steps
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.taps import TapPlan, plan_taps
from vamc_compiler.verify.tokens import Tokens, tokens_of
from vamc_compiler.verify.weights import WeightProblem, check_weights
from vamc_runtime.errors import UserError
from vamc_runtime.machine import available_memory_bytes, cpu_model
from vamc_runtime.runstream import choose_library, open_runstream
from vamc_runtime.text.tokenizer import Tokenizer, load_tokenizer

Part = Literal["reference", "modeling", "graphs", "weights", "compiled"]
EVERYTHING: frozenset[Part] = frozenset(("reference", "modeling", "graphs", "weights", "compiled"))
SHORT: frozenset[Part] = frozenset(("reference", "compiled"))
"""What a build does by default: the original against what was compiled."""
GREEDY_PROMPT_TOKENS, GREEDY_TOKENS = 24, 32
DECODED_TOKENS = 24
"""Tokens at the end of each sequence that the check of cached decode computes one by one."""
_SMALLEST_SHARE_BYTES = 256 << 20


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
    tokens = tokens_of(subject.config, subject.source.config.vocab_size)
    with contextlib.ExitStack() as stack:
        verification = _Verification(request, tokens, stages, stack, on_failure)
        verification.run()
    return Outcome(verification.report(time.perf_counter() - start), verification.golden_logits, tokens)


def _decoder(tokenizer: Tokenizer | None) -> Callable[[Sequence[int]], str]:
    if tokenizer is None:
        return lambda ids: " ".join(map(str, ids))
    return lambda ids: tokenizer.decode(list(ids))


def _memory_share() -> int:
    """Bytes that one of the stages may keep of the weights: an eighth of what is free."""
    return max(_SMALLEST_SHARE_BYTES, available_memory_bytes() // 8)


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
        settings = subject.config
        self.budget: Budget = default_budget(
            subject.precision, bfloat16_prefill=settings.backend.compile.prefill_precision == "bf16"
        ).overridden(settings.verify.budget)
        self.plan = plan_taps(subject.graphs[0].model(), subject.parameters)
        self.limit = subject.manifest.limits.max_prefill_tokens
        given = self.request.share_bytes
        self.memory = _memory_share() if given is None else given
        self.tokenizer = self._load_tokenizer()
        self.runner = Runner(
            Setting(
                plan=self.plan,
                sequences=self.tokens.sequences,
                page_tokens=PAGE_TOKENS,
                decode=_decoder(self.tokenizer),
            )
        )

    def _load_tokenizer(self) -> Tokenizer | None:
        try:
            return load_tokenizer(self.subject.checkpoint.directory)
        except UserError:
            return None  # token ids are shown instead of text

    # The stages

    def _whole(self, stage: Stage) -> Form:
        return Form(stage=stage, chunks=lambda length: even_chunks(length, self.limit))

    def _chunked(self, stage: Stage) -> Form:
        return Form(stage=stage, chunks=lambda length: odd_chunks(length, self.limit), label="in chunks")

    def _decoded(self, stage: Stage) -> Form:
        return Form(
            stage=stage,
            chunks=lambda length: decode_chunks(length, min(DECODED_TOKENS, length // 2), self.limit),
            label="token by token",
        )

    def _reference(self) -> Form | None:
        opened = open_reference(
            self.subject.checkpoint.directory,
            self.subject.checkpoint,
            trust_checkpoint_code=self.request.trust_checkpoint_code,
            cache_bytes=self.memory,
        )
        if opened is None:
            self.warn(
                "there is no independent reference for this model: the first stage is the modeling file itself. "
                "With --trust-checkpoint-code the checkpoint's own code is the reference, where it has some"
            )
            return None
        self.reference_name = opened.description
        self.close_reference = opened.close
        return self._whole(ReferenceStage(opened))

    def _modeling(self, name: str, parameters: Sequence[RankParameters], plan: TapPlan) -> Stage:
        return ModelingStage(
            name, self.subject.source, self.subject.precision, parameters, plan, page_tokens=PAGE_TOKENS
        )

    def _rank_parameters(self, ranks: Sequence[Sequence[ParameterSpec]]) -> list[RankParameters]:
        share = self.memory // len(ranks)
        return [RankParameters(self.subject.checkpoint, rank, share) for rank in ranks]

    def _graph(self, name: str, of_rank: Callable[[RankGraph], bytes], parameters: Sequence[RankParameters]) -> Stage:
        models = [parse_model(of_rank(graph)) for graph in self.subject.graphs]
        kv = self.subject.manifest.kv_cache
        return GraphStage(
            name,
            models,
            parameters,
            plan_taps(models[0], self.subject.parameters),
            segment_bytes=self.memory,
            cache_shape=(2, kv.num_heads, PAGE_TOKENS, kv.head_dim),
            num_threads=len(os.sched_getaffinity(0)),
        )

    def _compiled(self, subject: Subject, plan: TapPlan) -> CompiledStage:
        runstream = open_runstream(subject.runstream)
        self.library = choose_library(runstream).mcpu
        longest = max(map(len, self.tokens.sequences))
        most = max(longest, min(GREEDY_PROMPT_TOKENS + GREEDY_TOKENS, runstream.manifest.limits.max_context_tokens))
        name = f"compiled, {_ranks(subject.num_ranks)}"
        return self.stack.enter_context(CompiledStage(name, runstream, plan, max_tokens=most))

    # The comparisons

    def run(self) -> None:
        """Every pair, in order."""
        parts, num_ranks = self.request.parts, self.subject.num_ranks
        previous = reference = self._reference() if "reference" in parts else None
        modeling_single: Form | None = None
        single: list[RankParameters] = []
        if "modeling" in parts or reference is None:
            single = self._rank_parameters([self.subject.single_parameters()])
            modeling_single = self._whole(self._modeling("modeling file, 1 rank", single, self.plan.for_one_rank()))
            if reference is not None:
                self.compare(reference, modeling_single, "prefill", self.budget.rounding)
                self.close_reference()
            previous = modeling_single
        every = self._rank_parameters(self.subject.parameters) if parts & {"modeling", "graphs"} else []
        if "modeling" in parts:
            previous = self._modeling_over_ranks(previous, modeling_single, every)
        for parameters in single:
            parameters.release()
        if "graphs" in parts:
            previous = self._graphs(previous, every)
        for parameters in every:
            parameters.release()
        if self.request.single is not None and "compiled" in parts and modeling_single is not None:
            self._compiled_single(modeling_single, self.request.single)
        if "weights" in parts:
            self.check_weights()
        if "compiled" in parts:
            assert previous is not None, "there is a stage before the compiled one"
            self._compiled_pairs(previous, reference, num_ranks)

    def _modeling_over_ranks(
        self, previous: Form | None, single: Form | None, every: Sequence[RankParameters]
    ) -> Form | None:
        last = single
        if self.subject.num_ranks > 1 and single is not None:
            name = f"modeling file, {_ranks(self.subject.num_ranks)}"
            last = self._whole(self._modeling(name, every, self.plan))
            self.compare(single, last, "prefill", self.budget.exact)
        if last is not None:
            self._parts_of(last, self.budget.exact)
        return last

    def _graphs(self, previous: Form | None, every: Sequence[RankParameters]) -> Form:
        ranks = _ranks(self.subject.num_ranks)
        exported = self._whole(self._graph(f"exported ONNX, {ranks}", lambda graph: graph.traced, every))
        if previous is not None:
            self.compare(previous, exported, "prefill", self.budget.exact)
        simplified = self._whole(self._graph(f"simplified ONNX, {ranks}", lambda graph: graph.simplified, every))
        self.compare(exported, simplified, "prefill", self.budget.exact)
        self._parts_of(simplified, self.budget.exact)
        self.runner.forget(exported)
        return simplified

    def _compiled_single(self, before: Form, single: Subject) -> None:
        with self._may_fail(before.name, "compiled, 1 rank"):
            form = self._whole(self._compiled(single, self.plan.for_one_rank()))
            self.compare(before, form, "prefill", self.budget.compiled)
            self.runner.forget(form)

    def _compiled_pairs(self, previous: Form, reference: Form | None, num_ranks: int) -> None:
        with self._may_fail(previous.name, f"compiled, {_ranks(num_ranks)}"):
            stage = self._compiled(self.subject, self.plan)
            form = self._whole(stage)
            if previous is not reference:
                self.compare(previous, form, "prefill", self.budget.compiled)
            self._parts_of(form, self.budget.compiled)
            if reference is not None:
                self.compare(reference, form, "prefill", self.budget.end_to_end)
            self.compare_greedy(reference or previous, stage)
            self.golden_logits = self.runner.streams(form)[0].logits

    def _parts_of(self, form: Form, block_limit: BlockLimit) -> None:
        """Chunked prefill and cached decode against one prefill of the same stage."""
        self.compare(form, self._chunked(form.stage), "chunked prefill", block_limit)
        self.compare(form, self._decoded(form.stage), "cached decode", block_limit)

    def compare(self, before: Form, after: Form, check: str, block_limit: BlockLimit) -> None:
        """One pair, noted and reported."""
        with self._may_fail(before.name, after.name, check), self.stages.stage(_stage_name(after, check)) as note:
            result = compare_forms(self.runner, before, after, self.budget, check=check, block_limit=block_limit)
            note.text = _verdict(result)
            self._add(result, before, after, block_limit)
        if after.label:
            self.runner.forget(after)

    def _add(self, result: PairResult, before: Form, after: Form, block_limit: BlockLimit) -> None:
        is_first = not result.passed and all(pair.passed for pair in self.pairs)
        self.pairs.append(result)
        if is_first and self.on_failure is not None:
            self.on_failure(Failure(result, self.runner, before, after, block_limit))

    def compare_greedy(self, before: Form, stage: CompiledStage) -> None:
        """The compiled model's likeliest continuation: where would the other one have gone elsewhere?"""
        prompt = self.tokens.sequences[0][:GREEDY_PROMPT_TOKENS]
        limits = self.subject.manifest.limits
        prompt = prompt[: max(1, limits.max_context_tokens // 2)]
        count = min(GREEDY_TOKENS, limits.max_context_tokens - len(prompt))
        with self.stages.stage("greedy tokens") as note:
            start = time.perf_counter()
            chosen, found = stage.greedy(prompt, count)
            sequence = [*prompt, *chosen[:-1]]
            steps = plan_steps(sequence, before.chunks(len(sequence)), PAGE_TOKENS)
            expected = before.stage.run(steps).logits[len(prompt) - 1 :]
            with np.errstate(all="ignore"):
                metrics, kl = compare_logits([expected], [found], [[0, *chosen[:-1]]], self.budget.decided_nats)
            different = np.flatnonzero(expected.argmax(-1) != np.array(chosen))
            first = int(different[0]) if different.size else None
            lines = tuple(greedy_lines(metrics, self.budget))
            failed = not all(line.passed for line in lines)
            result = PairResult(
                before=before.name,
                after=stage.name,
                check="greedy tokens",
                budgets=lines,
                metrics=metrics,
                kl=tuple(map(float, kl)),
                num_greedy_tokens=count,
                first_divergence=first,
                location=Location(stage=stage.name, detail=f"first other token: {first}") if failed else None,
                seconds=time.perf_counter() - start,
            )
            self.pairs.append(result)
            note.text = f"{count} equal" if first is None else f"{first} of {count} before the first other one"

    def check_weights(self) -> None:
        """Whether the ranks' files hold the checkpoint's weights."""
        with self.stages.stage("weights of the ranks") as note:
            start = time.perf_counter()
            found = check_weights(
                self.subject.runstream,
                self.subject.parameters,
                self.subject.checkpoint,
                lambda done, total: self.stages.reporter.progress(done, total, "weights"),
            )
            stage = f"weights, {_ranks(self.subject.num_ranks)}"
            self.pairs.append(
                PairResult(
                    before="checkpoint",
                    after=stage,
                    check="weights",
                    budgets=(BudgetLine(name="tensors that differ", value=len(found.problems), limit=0),),
                    location=_weights_location(stage, found.problems) if found.problems else None,
                    seconds=time.perf_counter() - start,
                )
            )
            note.text = f"{found.num_parameters} tensors, " + (
                f"{len(found.problems)} differ" if found.problems else "each as in the checkpoint"
            )

    @contextlib.contextmanager
    def _may_fail(self, before: str, after: str, check: str = "prefill") -> Iterator[None]:
        """A stage that cannot run is a finding, not the end of the report."""
        try:
            yield
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:
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

    def warn(self, message: str) -> None:
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


def _ranks(count: int) -> str:
    return f"{count} rank{'s' * (count > 1)}"


def _stage_name(after: Form, check: str) -> str:
    return after.stage.name if check == "prefill" else f"{after.stage.name}: {check}"


def _verdict(result: PairResult) -> str:
    worst = result.worst_block
    figures = [] if result.metrics is None else [f"mean KL {result.metrics.kl_mean:.1e}"]
    if worst is not None and worst.isolated is not None:
        figures.append(f"{worst.block} {worst.isolated:.1e}")
    return ("" if result.passed else "outside its budget: ") + ", ".join(figures)


def _weights_location(stage: str, problems: Sequence[WeightProblem]) -> Location:
    first = problems[0]
    ranks = tuple(sorted({problem.rank for problem in problems if problem.parameter == first.parameter}))
    return Location(stage=stage, op=first.parameter, ranks=ranks, detail=_describe(first))


def _describe(problem: WeightProblem) -> str:
    place = f"row {problem.first_row}, column {problem.first_column}"
    return f"{problem.hint or problem.kind}: {problem.num_different} values differ, the first at {place}"
