"""Statistics: shared time of mixed steps, the line for people and the dict for JSON."""

from __future__ import annotations

import json

import pytest

from vamc_runtime.statistics import GenerationStatistics


def test_mixed_step_is_shared_by_token_count() -> None:
    statistics = GenerationStatistics()
    statistics.add_step(30, 10, 0.4)
    statistics.add_step(0, 10, 0.2)
    assert statistics.prefill_seconds == pytest.approx(0.3)
    assert statistics.decode_seconds == pytest.approx(0.3)
    with pytest.raises(AssertionError, match="without tokens"):
        statistics.add_step(0, 0, 0.1)


def test_summary_line() -> None:
    statistics = GenerationStatistics()
    statistics.add_step(512, 0, 0.31)
    statistics.add_step(0, 64, 1.2)
    assert (
        statistics.summary_line()
        == "prefill 512 tokens in 0.31 s (1,652 tok/s), decode 64 tokens in 1.2 s (53.3 tok/s)"
    )


@pytest.mark.parametrize(("seconds", "text"), [(0.0012, "0.0012 s"), (9.99, "10.0 s"), (123.4, "123 s")])
def test_times_have_no_exponent(seconds: float, text: str) -> None:
    statistics = GenerationStatistics()
    statistics.add_step(1, 0, seconds)
    assert text in statistics.summary_line()


def test_nothing_measured() -> None:
    statistics = GenerationStatistics()
    assert "decode 0 tokens" in statistics.summary_line() and "tok/s" not in statistics.summary_line()
    assert statistics.to_dict()["decode_tokens_per_second"] is None
    assert statistics.to_dict()["first_token_seconds_mean"] is None


def test_to_dict_is_json() -> None:
    statistics = GenerationStatistics()
    statistics.add_step(100, 0, 0.5)
    statistics.add_first_token(0.5)
    statistics.add_first_token(1.5)
    content = json.loads(json.dumps(statistics.to_dict()))
    assert content["prefill_tokens_per_second"] == 200.0
    assert (content["first_token_seconds_mean"], content["first_token_seconds_max"]) == (1.0, 1.5)
