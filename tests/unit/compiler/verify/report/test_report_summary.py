"""The summary in the terminal."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from rich.console import Console
from sample_reports import (
    HOSTILE,
    failing_report,
    hostile_report,
    make_pair,
    make_report,
    odd_report,
    passing_report,
)

from vamc_compiler.verify.report import print_summary
from vamc_compiler.verify.report.figures import figure, share, value_and_limit
from vamc_compiler.verify.result import Location, VerificationReport


def summary(report: VerificationReport, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    print_summary(report, Console(file=stream, width=width, force_terminal=False))
    return raw.getvalue().decode(encoding)


def squeezed(text: str) -> str:
    """Without the white space that folding adds."""
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_every_comparison_with_its_figures(width: int) -> None:
    report = passing_report()
    text = summary(report, width)
    assert "…" not in text and all(len(line) <= width for line in text.splitlines())
    assert text.count("✓") == len(report.pairs) and "✗" not in text
    found = squeezed(text)
    for pair in report.pairs:
        # In 60 columns the figures stand between the lines of a folded name.
        assert width < 80 or squeezed(f"{pair.before} -> {pair.after}, {pair.check}") in found
        if pair.metrics is not None:
            block = pair.worst_block
            assert block is not None and block.isolated is not None
            for part in (figure(pair.metrics.kl_mean), share(pair.metrics.same_top), figure(block.isolated)):
                assert squeezed(part) in found
    assert text.splitlines()[-1] == "pass: all 8 comparisons within budget, 41.8 s"
    assert "--bisect" not in text


def test_one_line_each_where_there_is_room() -> None:
    lines = summary(passing_report(), 200).splitlines()
    line = next(line for line in lines if "simplified ONNX -> compiled, prefill" in line)
    assert re.search(r"✓ .*2\.6e-07 +100\.00 % +isolated error of a block 1\.5e-03 / 1e-02 +layer 2 attention", line)


def test_failure() -> None:
    report = failing_report()
    text = summary(report)
    assert text.count("✗") == 1
    first = report.first_failure
    assert first is not None and squeezed(f"first wrong: {first.location}") in squeezed(text)
    for line in first.budgets:
        value, limit = value_and_limit(line)
        bound = f"at {'least' if line.at_least else 'most'} {limit}"
        assert re.search(rf"^ +{re.escape(line.name)} +{re.escape(value)} +{re.escape(bound)} *$", text, re.MULTILINE)
    assert text.count("prefill:\n") == 1, "only what failed is listed"
    assert "--bisect" in text and "--report DIR" in text
    assert "warning: No text was given" in text
    assert text.splitlines()[-1] == "fail: 1 of 8 comparisons outside its budget, 41.8 s"


def test_only_exceeded_lines_are_listed() -> None:
    text = summary(odd_report())
    listed = text[text.index("first wrong") :]
    assert "mean KL" in listed and "NaN" in listed and "∞" in listed
    assert "same top token" not in listed, "it kept within its bound"


def test_first_failure_without_location() -> None:
    pair = dataclasses.replace(failing_report().pairs[6], location=None)
    assert "first wrong: compiled over 2 ranks\n" in summary(make_report(pair))


def test_location_is_that_of_the_first_failure() -> None:
    wrong = failing_report().pairs[6]
    later = dataclasses.replace(wrong, location=Location(stage="a later stage"))
    text = summary(make_report(make_pair("a", "b"), wrong, later))
    assert "first wrong: compiled over 2 ranks" in text and "a later stage" not in text


def test_nothing_compared_is_no_pass() -> None:
    last = summary(make_report()).splitlines()[-1]
    assert last == "nothing to say: nothing was compared, 41.8 s"


def test_text_is_no_markup() -> None:
    report = dataclasses.replace(passing_report(), name="[red]name[/red]", warnings=("[/nothing]", HOSTILE))
    text = summary(report)
    assert "[red]name[/red]" in text and "[/nothing]" in text
    assert "\x1b" not in text and "\x1b" not in summary(hostile_report())


def test_output_that_has_no_ticks() -> None:
    report = make_report(*(pair for pair in failing_report().pairs))
    text = summary(report, encoding="ascii")
    assert re.search(r"^X +compiled -> compiled over 2 ranks", text, re.MULTILINE)
    assert re.search(r"^\+ +original -> patched modeling", text, re.MULTILINE)
