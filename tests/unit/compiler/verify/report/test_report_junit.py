"""JUnit XML, read back."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from sample_reports import HOSTILE, failing_report, hostile_report, make_report, odd_report, passing_report

from vamc_compiler.verify.report import render_junit
from vamc_compiler.verify.report.figures import against_limit, clean
from vamc_compiler.verify.result import VerificationReport


def suite_of(report: VerificationReport) -> ET.Element:
    root = ET.fromstring(render_junit(report).encode())
    suites = root.findall("testsuite")
    assert root.tag == "testsuites" and len(suites) == 1
    return suites[0]


def test_cases() -> None:
    report = passing_report()
    suite = suite_of(report)
    assert (suite.get("tests"), suite.get("failures"), suite.get("timestamp")) == ("8", "0", "2026-05-04T09:30:12")
    cases = suite.findall("testcase")
    for pair, case in zip(report.pairs, cases, strict=True):
        assert (case.get("classname"), case.get("name")) == (f"{pair.before} -> {pair.after}", pair.check)
        assert float(case.get("time", "")) == pair.seconds
        assert case.find("failure") is None


def test_failure() -> None:
    report = failing_report()
    suite = suite_of(report)
    assert suite.get("failures") == "1"
    failed = [case for case in suite.findall("testcase") if case.find("failure") is not None]
    assert [case.get("classname") for case in failed] == ["compiled -> compiled over 2 ranks"]
    message = failed[0].find("failure").get("message", "")  # type: ignore[union-attr]
    pair = report.first_failure
    assert pair is not None and message.startswith(str(pair.location))
    assert all(against_limit(line) in message for line in pair.budgets)
    assert "No text was given" in (suite.findtext("system-out") or "")


def test_not_a_number() -> None:
    message = suite_of(odd_report()).find("testcase/failure").get("message", "")  # type: ignore[union-attr]
    assert "mean KL NaN, at most 1e-05" in message and "same top token" not in message


def test_odd_characters() -> None:
    suite = suite_of(hostile_report())
    assert suite.get("name") == clean(HOSTILE)
    assert suite.find("testcase").get("name") == clean(HOSTILE)  # type: ignore[union-attr]


def test_nothing_compared() -> None:
    suite = suite_of(make_report())
    assert suite.get("tests") == "0" and not suite.findall("testcase")
