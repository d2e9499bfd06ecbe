"""The harness finds every kind of fault, names its case, and goes on behind it."""

from __future__ import annotations

from fuzz.harness import run_target
from fuzz.target import case_generator, load_target

_PLACE = "fuzz.faulty_targets:"


def _crashing_cases() -> list[int]:
    target = load_target(_PLACE + "CRASHES")
    return [case for case in range(6) if case_generator(target, 0, case).random() < 0.5]


def test_an_exception_is_a_fault_and_a_user_error_is_none() -> None:
    result = run_target(_PLACE + "RAISES", 10)
    assert result.num_refused + len(result.faults) == 10
    assert result.num_refused and result.faults
    assert "ValueError: boom" in result.faults[0].problem


def test_a_crash_is_a_fault_and_the_cases_behind_it_run() -> None:
    result = run_target(_PLACE + "CRASHES", 6, num_workers=2)
    assert [fault.case for fault in result.faults] == _crashing_cases()
    assert result.num_accepted == 6 - len(result.faults)
    assert all("SIGSEGV" in fault.problem for fault in result.faults)


def test_a_case_without_an_end_is_a_fault() -> None:
    (fault,) = run_target(_PLACE + "HANGS", 1).faults
    assert "no end after" in fault.problem


def test_growth_is_a_fault() -> None:
    (fault,) = run_target(_PLACE + "GROWS", 1).faults
    assert "grew by" in fault.problem


def test_a_target_that_cannot_be_prepared_is_a_fault_and_runs_nothing() -> None:
    result = run_target(_PLACE + "UNPREPARED", 3)
    assert [fault.case for fault in result.faults] == [-1]
    assert "nothing to share" in result.faults[0].problem
    assert result.num_accepted == 0


def test_what_is_right_is_counted() -> None:
    result = run_target(_PLACE + "ACCEPTS", 7, num_workers=2)
    assert (result.num_accepted, result.num_refused, result.faults) == (7, 0, [])
