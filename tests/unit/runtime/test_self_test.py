"""The self-test runs where it is due and only there, within its time, and refuses what differs; it names both CPUs."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_runstream as fake
import numpy as np
import numpy.typing as npt
import pytest
from fake_certificate import CPU, add_certificate, fake_golden, make_certificate
from fake_executor import FakeExecutor, model_logits

from vamc_runtime import LLM, UserError, engine, self_test
from vamc_runtime.certificate import Certificate
from vamc_runtime.executor import StepArguments
from vamc_runtime.manifest import Limits, Manifest
from vamc_runtime.runstream import Runstream, open_runstream
from vamc_runtime.self_test import BUDGET_SECONDS, check_ranks, find_state, run_golden, this_host

VOCAB = 400
TOKENS = tuple((7 * i + 3) % VOCAB for i in range(40))
HERE = "Other CPU 1"
NUM_PAGES = 16


class FakeRanks(FakeExecutor):
    """Ranks on hosts of the given CPUs, whose compiled code takes some time."""

    def __init__(self, runstream: Runstream, cpus: Sequence[str] = (HERE,), num_pages: int = NUM_PAGES) -> None:
        super().__init__(runstream.manifest, num_pages)
        self.runstream = runstream
        self.cpus = cpus
        self.now = 0.0
        self.step_seconds: Callable[[int], float] = lambda num_tokens: 0.0
        self.change: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] = lambda logits: logits

    def step(self, arguments: StepArguments) -> npt.NDArray[np.float32]:
        self.now += self.step_seconds(arguments.input_ids.size)
        return self.change(super().step(arguments))

    def on_every_rank(self, task: Callable[[Any], Any]) -> list[Any]:
        results = []
        for cpu in self.cpus:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self_test, "cpu_model", lambda cpu=cpu: cpu)
                results.append(task(SimpleNamespace(runstream=self.runstream)))
        return results

    def clock(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that remembers; and this machine's CPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(self_test, "cpu_model", lambda: HERE)
    return tmp_path / "cache" / "vamc" / "self_tests.json"


Make = Callable[..., Runstream]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A runstream with a certificate; fields of that may be given, and the manifest's limits."""

    def build(*, limits: Limits | None = None, **changes: Any) -> Runstream:
        manifest = fake.build(tmp_path / "fake", **({} if limits is None else {"limits": limits}))
        certificate = make_certificate(**{"golden": fake_golden(TOKENS, VOCAB), **changes})
        add_certificate(tmp_path / "fake", manifest, certificate)
        return open_runstream(tmp_path / "fake")

    return build


def check(ranks: FakeRanks, *, enabled: bool = True, num_pages: int = NUM_PAGES) -> None:
    check_ranks(ranks, ranks.runstream, num_pages=num_pages, enabled=enabled, clock=ranks.clock)


class TestWhen:
    def test_another_cpu(self, make: Make) -> None:
        ranks = FakeRanks(make())
        check(ranks)
        assert sum(ranks.num_tokens) == len(TOKENS)

    def test_the_same_cpu_and_library(self, make: Make) -> None:
        ranks = FakeRanks(make(), [CPU])
        check(ranks)
        assert ranks.num_steps == 0

    @pytest.mark.parametrize("library", ["znver4", ""])
    def test_the_same_cpu_with_another_library(self, make: Make, library: str) -> None:
        ranks = FakeRanks(make(library=library), [CPU])
        check(ranks)
        assert ranks.num_steps > 0

    def test_one_rank_on_another_cpu(self, make: Make) -> None:
        for cpus, due in (([CPU, CPU], False), ([CPU, HERE], True)):
            ranks = FakeRanks(make(), cpus)
            check(ranks)
            assert (ranks.num_steps > 0) is due

    def test_no_golden_tokens(self, make: Make) -> None:
        for status in ("passed", "off", "skipped"):
            ranks = FakeRanks(make(golden=None, status=status))
            check(ranks)
            assert ranks.num_steps == 0

    def test_no_certificate(self, tmp_path: Path) -> None:
        fake.build(tmp_path / "old")
        ranks = FakeRanks(open_runstream(tmp_path / "old"))
        check(ranks)
        assert ranks.num_steps == 0

    def test_damaged_certificate(self, make: Make) -> None:
        runstream = make()
        (runstream.path / "numerics.json").write_text("{")
        with pytest.raises(UserError, match=r"numerics\.json is damaged"):
            check(FakeRanks(runstream))
        fake.write_manifest(runstream.path, runstream.manifest)
        with pytest.raises(UserError, match=r"numerics\.json cannot be read"):
            check(FakeRanks(open_runstream(runstream.path)))


class TestMemory:
    def passes(self, ranks: FakeRanks) -> bool:
        """Whether it passes without a step."""
        before = ranks.num_steps
        check(ranks)
        return ranks.num_steps == before

    def test_once_only(self, make: Make) -> None:
        ranks = FakeRanks(make())
        assert [self.passes(ranks) for _ in range(3)] == [False, True, True]

    def test_for_each_cpu(self, make: Make) -> None:
        runstream = make()
        assert not self.passes(FakeRanks(runstream))
        assert not self.passes(FakeRanks(runstream, ["Other CPU 2"]))
        assert not self.passes(FakeRanks(runstream, [HERE, "Other CPU 2"]))
        assert self.passes(FakeRanks(runstream, ["Other CPU 2", HERE])), "whatever the order of ranks"

    def test_for_each_certificate_and_library(self, make: Make) -> None:
        assert not self.passes(FakeRanks(make()))
        assert not self.passes(FakeRanks(make(date="2026-11-22")))
        runstream = make()
        (runstream.path / "lib/model.any.so").write_bytes(b"compiled again")
        fake.write_manifest(runstream.path, runstream.manifest)
        assert not self.passes(FakeRanks(open_runstream(runstream.path)))

    def test_a_failure_is_not_remembered(self, make: Make) -> None:
        runstream = make(golden=fake_golden(TOKENS, VOCAB, error=0.1))
        for _ in range(2):
            with pytest.raises(UserError, match="self-test failed"):
                check(FakeRanks(runstream))

    @pytest.mark.parametrize("damage", ["text", "folder"])
    def test_damaged_or_unwritable_memory(self, make: Make, cache: Path, damage: str) -> None:
        cache.parent.mkdir(parents=True)
        cache.mkdir() if damage == "folder" else cache.write_text('{"passed": 7}')
        ranks = FakeRanks(make())
        assert not self.passes(ranks)
        assert self.passes(ranks) is (damage == "text"), "what cannot be written is tested every time"

    def test_people_can_read_it(self, make: Make, cache: Path) -> None:
        check(FakeRanks(make()))
        assert list(json.loads(cache.read_text())["passed"].values()) == [f"fake on {HERE} (library any)"]


class TestRefusal:
    def test_names_both_cpus_and_what_to_do(self, make: Make) -> None:
        with pytest.raises(UserError) as caught:
            check(FakeRanks(make(golden=fake_golden(TOKENS, VOCAB, error=0.1))))
        error = caught.value
        assert f"{HERE} (library any)" in error.found and f"verified on {CPU} (library any)" in error.found
        assert "differ by 0.05 on average over 40 tokens" in error.found
        assert error.expected == "at most 1e-06"
        for part in ("backend.target.mcpu", "vamc verify", "--no-self-test"):
            assert part in error.fix

    def test_tolerance_is_for_the_mean(self, make: Make) -> None:
        golden = fake_golden(TOKENS, VOCAB, error=0.1)  # at every second log-probability
        check(FakeRanks(make(golden=replace(golden, tolerance=0.0501))))
        with pytest.raises(UserError, match="self-test failed"):
            check(FakeRanks(make(golden=replace(golden, tolerance=0.0499))))

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_logits_that_are_not_finite(self, make: Make, bad: float) -> None:
        golden = replace(fake_golden(TOKENS, VOCAB), tolerance=1e30)
        ranks = FakeRanks(make(golden=golden))
        ranks.change = lambda logits: np.full_like(logits, bad)
        with pytest.raises(UserError, match="differ by nan"):
            check(ranks)

    def test_one_wrong_position(self, make: Make) -> None:
        ranks = FakeRanks(make())
        ranks.change = lambda logits: np.roll(logits, ranks.num_steps == 3, axis=1)
        with pytest.raises(UserError, match="self-test failed"):
            check(ranks)

    @pytest.mark.parametrize("token", [-1, VOCAB])
    def test_ids_outside_the_vocabulary_never_reach_compiled_code(self, make: Make, token: int) -> None:
        golden = fake_golden(TOKENS, VOCAB)
        for wrong in (
            replace(golden, token_ids=(*golden.token_ids[:-1], token)),
            replace(golden, top_ids=((token, *golden.top_ids[0][1:]), *golden.top_ids[1:])),
        ):
            ranks = FakeRanks(make(golden=wrong))
            with pytest.raises(UserError, match=f"token id {token}"):
                check(ranks)
            assert ranks.num_steps == 0


class TestSkipped:
    def skipped(self, ranks: FakeRanks, caplog: pytest.LogCaptureFixture) -> list[str]:
        caplog.clear()
        check(ranks, enabled=False)
        assert ranks.num_steps == 0
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    def test_logged_in_one_line_that_names_both_cpus(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        (message,) = self.skipped(FakeRanks(make(golden=fake_golden(TOKENS, VOCAB, error=0.1))), caplog)
        assert "self-test skipped" in message and CPU in message and HERE in message and "\n" not in message

    def test_not_logged_where_nothing_is_due(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        runstream = make()
        assert self.skipped(FakeRanks(runstream, [CPU]), caplog) == []
        assert len(self.skipped(FakeRanks(runstream), caplog)) == 1
        assert len(self.skipped(FakeRanks(runstream), caplog)) == 1, "skipping is not passing"
        check(FakeRanks(runstream))
        assert self.skipped(FakeRanks(runstream), caplog) == []


class TestTime:
    """`FakeRanks.now` is the clock: steps take what they are told to, and nothing else takes time."""

    def steps(self, make: Make, seconds: Callable[[int], float], **changes: Any) -> FakeRanks:
        ranks = FakeRanks(make(**changes))
        ranks.step_seconds = seconds
        check(ranks)
        return ranks

    def test_fast(self, make: Make) -> None:
        wide = Limits(max_prefill_tokens=64, max_context_tokens=64)
        assert self.steps(make, lambda n: 0.001, limits=wide).num_tokens == [4, 1, 32, 3]

    @pytest.mark.parametrize("seconds", [1.01, 2.5, 100.0])
    def test_one_step_always_runs(self, make: Make, seconds: float) -> None:
        assert self.steps(make, lambda n: seconds).num_tokens == [4]

    def test_a_step_that_fails_within_the_time_is_noticed(self, make: Make) -> None:
        ranks = FakeRanks(make(golden=fake_golden(TOKENS, VOCAB, error=0.1)))
        ranks.step_seconds = lambda n: 100.0
        with pytest.raises(UserError, match="over 4 tokens"):
            check(ranks)

    @pytest.mark.parametrize("fixed", [0.0, 0.05, 0.2, 0.7])
    @pytest.mark.parametrize("each", [0.0, 0.01, 0.05, 0.2])
    def test_within_the_budget(self, make: Make, fixed: float, each: float) -> None:
        wide = Limits(max_prefill_tokens=64, max_context_tokens=64)
        ranks = self.steps(make, lambda n: fixed + each * n, limits=wide)
        assert ranks.now <= BUDGET_SECONDS
        left = BUDGET_SECONDS - ranks.now
        assert sum(ranks.num_tokens) == len(TOKENS) or left < fixed + each * max(ranks.num_tokens), "time is used"

    def test_slow_first_step(self, make: Make) -> None:
        # The first touches all weights; the others are faster, and it still decides what is risked.
        times = iter([1.2, *[0.1] * 20])
        assert self.steps(make, lambda n: next(times)).num_tokens == [4]


class TestLimits:
    def test_tokens_of_a_step(self, make: Make) -> None:
        for most in (1, 3, 8):
            ranks = FakeRanks(make(limits=Limits(max_prefill_tokens=most, max_context_tokens=64), date=str(most)))
            check(ranks)
            assert max(ranks.num_tokens) == most and sum(ranks.num_tokens) == len(TOKENS)

    def test_context(self, make: Make) -> None:
        ranks = FakeRanks(make(limits=Limits(max_prefill_tokens=8, max_context_tokens=10)))
        check(ranks)
        assert sum(ranks.num_tokens) == 10

    @pytest.mark.parametrize("num_pages", [1, 3])
    def test_pages(self, make: Make, num_pages: int) -> None:
        ranks = FakeRanks(make(), num_pages=num_pages)
        check(ranks, num_pages=num_pages)
        assert sum(ranks.num_tokens) == num_pages * ranks.manifest.kv_cache.page_tokens

    def test_a_few_likeliest_tokens_differ_in_number(self, make: Make) -> None:
        golden = fake_golden(TOKENS, VOCAB)
        ragged = replace(
            golden,
            top_ids=tuple(row[: 1 + i % 8] for i, row in enumerate(golden.top_ids)),
            log_probabilities=tuple(row[: 1 + i % 8] for i, row in enumerate(golden.log_probabilities)),
        )
        ranks = FakeRanks(make())
        outcome = run_golden(ranks, ranks.manifest, ragged, num_pages=NUM_PAGES, clock=ranks.clock)
        assert outcome.num_tokens == len(TOKENS) and 0 <= outcome.difference < 1e-6


class TestState:
    def test_of_this_machine(self, make: Make) -> None:
        def state(certificate: Certificate | None) -> str:
            return find_state(runstream, certificate, [this_host(runstream)])

        runstream = make()
        certificate = make_certificate(golden=fake_golden(TOKENS, VOCAB))
        assert state(None) == "none" and state(replace(certificate, golden=None)) == "none"
        assert state(certificate) == "due"
        assert state(replace(certificate, cpu=HERE)) == "not needed"
        check(FakeRanks(runstream))
        assert state(certificate) == "passed before"


class TestLLM:
    @pytest.fixture(autouse=True)
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[FakeRanks]:
        """Every executor that was opened; those that were closed say so."""
        executors: list[FakeRanks] = []

        @contextlib.contextmanager
        def open_executor(runstream: Runstream, options: Any, on_load: object) -> Iterator[FakeRanks]:
            executors.append(FakeRanks(runstream, num_pages=options.num_pages))
            try:
                yield executors[-1]
            finally:
                executors[-1].runstream = None  # type: ignore[assignment]

        monkeypatch.setattr(engine, "open_executor", open_executor)
        return executors

    def test_before_it_is_handed_out(self, make: Make, opened: list[FakeRanks]) -> None:
        path = make().path
        with LLM(path) as llm:
            assert sum(opened[0].num_tokens) == len(TOKENS)
            expected = model_logits(np.array([5, 6], np.int32), VOCAB)
            assert np.array_equal(llm.logits([5, 6])[1], expected), "the cache is free again"
        with LLM(path):
            assert opened[1].num_steps == 0

    def test_what_failed_is_closed(self, make: Make, opened: list[FakeRanks]) -> None:
        path = make(golden=fake_golden(TOKENS, VOCAB, error=0.1)).path
        llm = LLM(path)
        with pytest.raises(UserError, match="self-test failed"), llm:
            pytest.fail("opened")
        assert opened[0].runstream is None
        with pytest.raises(UserError, match="not open"):
            llm.logits([1])

    def test_off(self, make: Make, opened: list[FakeRanks], caplog: pytest.LogCaptureFixture) -> None:
        with LLM(make(golden=fake_golden(TOKENS, VOCAB, error=0.1)).path, self_test=False):
            assert opened[0].num_steps == 0
        assert "self-test skipped" in caplog.text


def test_manifest_of_the_fakes_has_room() -> None:
    manifest: Manifest = fake.make_manifest()
    assert len(TOKENS) <= NUM_PAGES * manifest.kv_cache.page_tokens, "else the tests above would compute fewer"
