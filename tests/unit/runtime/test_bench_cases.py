"""Cases become steps that a runstream can compute, and lengths beyond it are refused with the limit."""

from __future__ import annotations

import argparse
from dataclasses import replace

import fake_runstream as fake
import numpy as np
import pytest
from fake_executor import FakeExecutor

from vamc_runtime.bench.cases import Case, make_cases
from vamc_runtime.bench.numbers import parse_numbers
from vamc_runtime.errors import UserError
from vamc_runtime.manifest import Limits

LIMITS = Limits(max_prefill_tokens=8, max_context_tokens=64)
MANIFEST = fake.make_manifest(limits=LIMITS)


@pytest.mark.parametrize(("text", "numbers"), [("512,513", (512, 513)), (" 1 ,2,", (1, 2)), ("7", (7,)), ("", ())])
def test_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["0", "1,-2", "1.5", "many", "1;2"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="separated by commas"):
        parse_numbers(text)


class TestMakeCases:
    def test_all_batches_with_all_contexts(self) -> None:
        cases = make_cases(LIMITS, (16, 17), (1, 8), (32, 64))
        assert [str(case) for case in cases] == [
            "prefill 16",
            "prefill 17",
            "decode 1 x 32",
            "decode 1 x 64",
            "decode 8 x 32",
            "decode 8 x 64",
        ]

    def test_defaults_are_within_the_limits(self) -> None:
        assert list(map(str, make_cases(LIMITS, None, None, None))) == ["prefill 64", "decode 1 x 64"]
        large = replace(LIMITS, max_context_tokens=4096)
        assert list(map(str, make_cases(large, None, None, None))) == ["prefill 512", "decode 1 x 128"]

    def test_one_phase_only(self) -> None:
        assert list(map(str, make_cases(LIMITS, (), (2,), (3,)))) == ["decode 2 x 3"]
        assert list(map(str, make_cases(LIMITS, (5,), (), None))) == ["prefill 5"]

    def test_nothing(self) -> None:
        with pytest.raises(UserError, match="nothing to measure"):
            make_cases(LIMITS, (), (), None)

    @pytest.mark.parametrize(
        ("arguments", "found", "limit"),
        [
            (((64, 65), None, None), "--prefill 65", 64),
            ((None, (8, 9), None), "--decode-batch 9", 8),
            ((None, None, (65,)), "--context 65", 64),
        ],
    )
    def test_beyond_the_limits(self, arguments: tuple[tuple[int, ...] | None, ...], found: str, limit: int) -> None:
        with pytest.raises(UserError) as caught:
            make_cases(LIMITS, *arguments)
        assert caught.value.found.startswith(found) and caught.value.expected.startswith(f"at most {limit}:")
        assert "compile" in caught.value.fix


@pytest.mark.parametrize("length", [1, 7, 8, 9, 64])
def test_a_prefill_is_computed_from_its_first_token_on(length: int) -> None:
    case = Case(phase="prefill", batch=1, context=length)
    executor = FakeExecutor(MANIFEST, case.num_pages(4))  # refuses a token whose predecessors were not computed
    steps = case.steps(MANIFEST, np.random.default_rng(0))
    for step in steps:
        assert executor.step(step).shape == (1, 400)
    assert sum(executor.num_tokens) == length == case.num_tokens
    assert case.num_pairs == sum(range(1, length + 1))


@pytest.mark.parametrize(("batch", "context"), [(1, 1), (1, 64), (3, 5), (8, 16)])
def test_a_decode_step_is_one_token_of_each_sequence(batch: int, context: int) -> None:
    case = Case(phase="decode", batch=batch, context=context)
    executor = FakeExecutor(MANIFEST, case.num_pages(4))
    executor.cache[...] = 0  # as if it were filled
    (step,) = case.steps(MANIFEST, np.random.default_rng(0))
    assert executor.step(step).shape == (batch, 400)
    assert step.position_ids.tolist() == [context - 1] * batch
    assert len(np.unique(step.page_table)) == step.page_table.size, "sequences share no pages"
    assert case.num_pairs == batch * context and case.num_tokens == batch
