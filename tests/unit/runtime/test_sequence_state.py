"""A sequence's own rules, and what `check_prompt` refuses."""

from __future__ import annotations

import pytest

from vamc_runtime.errors import UserError
from vamc_runtime.sampling import SamplingParams
from vamc_runtime.sequence import Sequence, check_prompt


def make(*, max_tokens: int = 10, ignore_eos: bool = False) -> Sequence:
    return Sequence(
        prompt_ids=[5, 6, 7],
        params=SamplingParams(ignore_eos=ignore_eos),
        eos_ids=frozenset({2, 3}),
        max_tokens=max_tokens,
    )


def test_any_eos_stops() -> None:
    sequence = make()
    sequence.append(9)
    assert sequence.finish_reason is None
    sequence.append(3)
    assert sequence.finish_reason == "stop" and sequence.output_ids == [9, 3] and sequence.num_tokens == 5
    with pytest.raises(AssertionError, match="finished"):
        sequence.append(9)


def test_length_limit_and_ignored_eos() -> None:
    sequence = make(max_tokens=5, ignore_eos=True)
    sequence.append(2)
    assert sequence.finish_reason is None
    sequence.append(2)
    assert sequence.finish_reason == "length"


def test_next_ids() -> None:
    sequence = make()
    assert sequence.is_prefilling and sequence.next_ids(2) == [5, 6]
    sequence.num_computed = 3
    sequence.append(9)
    assert not sequence.is_prefilling and sequence.next_ids(1) == [9]


def test_equal_requests_are_different_sequences() -> None:
    assert make() != make()


@pytest.mark.parametrize(
    ("ids", "found", "expected"),
    [
        ([], "empty", "at least one"),
        ([1] * 8, "8 tokens", "at most 7 in a context of 8, which leaves 1"),
        ([1, -1], "id -1", "from 0 to 99"),
        ([1, 100], "id 100", "from 0 to 99"),
    ],
)
def test_refused_prompts(ids: list[int], found: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_prompt(ids, 100, 8)
    assert found in caught.value.found and expected in caught.value.expected


def test_accepted_prompts() -> None:
    check_prompt([0, 99], 100, 8)
    check_prompt([1] * 7, 100, 8)
    check_prompt([1] * 8, 100, 8, min_output_tokens=0)
