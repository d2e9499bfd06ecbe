"""The page, read with a parser: balanced, complete, alone, and without markup that came from a report."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from sample_reports import (
    HOSTILE,
    deep_report,
    failing_report,
    hostile_report,
    make_pair,
    make_report,
    odd_report,
    passing_report,
)

from vamc_compiler.verify.report import render_html
from vamc_compiler.verify.report.charts import Series
from vamc_compiler.verify.report.figures import clean, figure, share, value_and_limit
from vamc_compiler.verify.report.html import _data
from vamc_compiler.verify.result import LogitMetrics, VerificationReport

REPORTS = {
    "passing": passing_report,
    "failing": failing_report,
    "deep": deep_report,
    "odd": odd_report,
    "hostile": hostile_report,
    "empty": make_report,
}
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails where tags do not match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute stands twice in <{tag}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def having(self, tag: str, class_: str = "") -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag and (not class_ or class_ in _classes(attrs))]


def _classes(attrs: dict[str, str | None]) -> list[str]:
    return (attrs.get("class") or "").split()


@pytest.fixture(scope="module", params=sorted(REPORTS))
def case(request: pytest.FixtureRequest) -> tuple[VerificationReport, str]:
    report = REPORTS[request.param]()
    return report, render_html(report)


def test_balanced_and_linked(case: tuple[VerificationReport, str]) -> None:
    page = Page(case[1])
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    links = [attrs["href"] or "" for attrs in page.having("a")]
    assert len(links) == len(case[0].pairs) and {link.removeprefix("#") for link in links} <= set(ids)


def test_needs_nothing_else(case: tuple[VerificationReport, str]) -> None:
    source = case[1]
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|<img|<iframe|\bsrc=", source.replace("</", ""))
    page = Page(source)
    assert [name for name, _ in page.elements].count("script") == 1
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    policy = next(attrs["content"] for attrs in page.having("meta") if "http-equiv" in attrs)
    assert policy is not None and policy.startswith("default-src 'none'")


def test_script_is_the_one_that_is_allowed() -> None:
    source = render_html(passing_report())
    script = re.search(r"<script>(.*?)</script>", source, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in source


def test_every_figure_is_there(case: tuple[VerificationReport, str]) -> None:
    report, source = case
    text = "\n".join(Page(source).text)
    expected = [report.name, report.model, report.precision, report.tokens.description, report.tokens.digest]
    expected += [report.reference, report.checkpoint_digest, report.cpu, report.library, report.date]
    expected += [f"{name} {version}" for name, version in report.toolchain.items()]
    expected += report.warnings
    for pair in report.pairs:
        expected += [pair.before, pair.after, pair.check]
        expected += [part for line in pair.budgets for part in (line.name, *value_and_limit(line))]
        expected += _figures_of(pair.metrics) if pair.metrics else []
        expected += [block.block for block in pair.blocks]
        expected += [
            figure(v) for b in pair.blocks for v in (b.accumulated, b.isolated, b.isolated_rms) if v is not None
        ]
        expected += [str(pair.location)] if pair.location else []
        for token in pair.worst_tokens:
            shown = (token.context, token.expected, token.found, token.actual)
            expected += [part.replace("\n", "↵") for part in shown] + [figure(token.kl)]
    missing = [part for part in expected if clean(part) not in text]
    assert not missing


def _figures_of(metrics: LogitMetrics) -> list[str]:
    shares = ("same_top", "same_decided", "top5_overlap")
    plain = (
        *("cosine_min", "cosine_mean", "kl_mean", "kl_median", "kl_p999", "kl_max", "perplexity_before"),
        *("perplexity_after", "perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high"),
    )
    errors = [e for s in (metrics.absolute, metrics.relative) for e in (s.mean, s.median, s.p99, s.p999, s.max)]
    return [
        *(share(getattr(metrics, name)) for name in shares),
        *(figure(getattr(metrics, name)) for name in plain),
        *map(figure, errors),
    ]


def test_charts_and_maps() -> None:
    report = deep_report()
    page = Page(render_html(report))
    assert len(page.having("svg", "depth")) == 2 and len(page.having("svg", "kl")) == len(report.pairs)
    assert len(page.having("g", "series")) == 3 * len(report.pairs), "two charts and the legend"
    maps = page.having("table", "heat")
    assert len(maps) == len(report.pairs)
    levels = {name for attrs in page.having("td") for name in _classes(attrs) if re.fullmatch(r"h\d", name)}
    assert {"h0", "h8"} & levels and len(levels) > 3
    assert len(page.having("div", "long")) == len(report.pairs), "82 layers scroll in their own box"


def test_first_wrong_block_is_marked() -> None:
    page = Page(render_html(failing_report()))
    assert len(page.having("tr", "wrong")) == 1
    assert page.text.count("first wrong") == 1
    series = page.having("g", "failed")
    assert {attrs["data-series"] for attrs in series if "data-series" in attrs} == {"6"}


@pytest.mark.parametrize(("make", "opened"), [(failing_report, [6]), (passing_report, [3]), (odd_report, [0, 1])])
def test_what_stands_open(make: Callable[[], VerificationReport], opened: list[int]) -> None:
    folds = Page(render_html(make())).having("details")
    assert [i for i, attrs in enumerate(folds) if "open" in attrs] == opened


def test_not_a_number() -> None:
    source = render_html(odd_report())
    page = Page(source)
    assert not re.search(r'[ "](nan|inf|-inf)["\s,]', re.sub(r'title="[^"]*"', "", source)), (
        "no chart coordinate is NaN"
    )
    assert len(page.having("td", "odd")) == 5 + 5 + 4
    assert len(page.having("path", "cross")) == 10, "five blocks in two charts"
    assert len(page.having("rect", "odd")) == 2


def test_text_cannot_become_markup() -> None:
    source = render_html(hostile_report())
    page = Page(source)
    assert source.count("<script>") == 1 and "alert(" not in re.findall(r"<script>.*?</script>", source, re.DOTALL)[0]
    assert clean(HOSTILE) in "".join(page.text)
    assert all(ord(c) >= 32 or c == "\n" for c in source)
    source.encode("utf-8")  # no lone surrogate is left


def test_title_says_the_verdict() -> None:
    assert "<title>baichuan2-13b-mini_int8_tp2: 1 of 8 comparisons outside its budget</title>" in render_html(
        failing_report()
    )
    assert "Nothing was compared." in render_html(make_report())


def test_no_depth_chart_without_blocks() -> None:
    pair = dataclasses.replace(make_pair("a", "b"), blocks=(), kl=(0.0, 0.0), worst_tokens=(), metrics=None)
    page = Page(render_html(make_report(pair)))
    assert not page.having("svg") and not page.having("table", "heat")
    assert "KL is 0 at all 2 positions." in page.text


def test_lines_of_a_chart_differ() -> None:
    """A model over ranks has 15 comparisons."""
    looks = [Series(label="", index=index, blocks=(), failed=False).class_ for index in range(20)]
    assert len(set(looks)) == 20
    assert len({look.split()[2] for look in looks[:8]}) == 1, "colours before dashes"


def test_style_knows_every_class() -> None:
    """A class without a rule is a misspelled one."""
    style = _data("page.css")
    pages = [Page(render_html(make())) for make in REPORTS.values()]
    used = {name for page in pages for _, attrs in page.elements for name in _classes(attrs)}
    hooks = {"depth", "kl", "d0"}  # for the script and these tests; solid lines need no rule
    assert {name for name in used if not re.search(rf"\.{name}\b(?!-)", style)} <= hooks
