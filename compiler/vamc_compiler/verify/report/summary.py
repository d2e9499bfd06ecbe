"""The summary in the terminal: a line for each comparison, where it first goes wrong, what to do next, the verdict."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vamc_compiler.terminal import mark
from vamc_compiler.verify.report.figures import (
    clean,
    exceeded,
    figure,
    nearest_line,
    ranks_text,
    seconds,
    share,
    value_and_limit,
    verdict,
    where,
)
from vamc_compiler.verify.result import PairResult, VerificationReport

FIGURE_WIDTH = 8
"""Of a column of figures: `100.00 %` stays in one piece while the name beside it is folded."""
FIGURES = ("mean KL", "same top")
"""Columns of figures."""


def print_summary(report: VerificationReport, console: Console) -> None:
    """Print a report for people.

    Text that does not fit is folded, never cut, so that a log of 80 columns has every figure.

    Args:
        report: what was found.
        console: where to; a terminal or not.
    """
    _print_heading(report, console)
    if report.pairs:
        console.print()
        _print_comparisons(report, console)
    if report.first_failure is not None:
        _print_failures(report, console)
    console.print()
    for warning in report.warnings:
        console.print(Text.assemble(("warning: ", "yellow"), clean(warning)), soft_wrap=True)
    console.print(_verdict_line(report), soft_wrap=True)


def _print_heading(report: VerificationReport, console: Console) -> None:
    parts = (report.model, report.precision, ranks_text(report))
    console.print(Text.assemble((clean(report.name), "bold"), ": ", clean(", ".join(parts))))
    console.print(Text(clean(f"{report.tokens.num_tokens:,} tokens: {report.tokens.description}")))
    console.print(Text(clean(f"reference: {report.reference or 'none'}")))


def _print_comparisons(report: VerificationReport, console: Console) -> None:
    """One line for each comparison; two where the console is too narrow for that."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "comparison", "mean KL", "same top", "nearest its limit", "worst block"):
        table.add_column(title, justify="right" if title in FIGURES else "left")
    for pair in report.pairs:
        table.add_row(*_cells(pair, console), Text(_nearest(pair), _style(pair)), Text(_worst_block(pair)))
    unlimited = console.options.update(max_width=sys.maxsize)
    if console.measure(table, options=unlimited).maximum <= console.width:
        console.print(table)
        return
    console.print(_first_line("", Text("comparison"), *map(Text, FIGURES)), style="bold")
    for pair in report.pairs:
        console.print(_first_line(*_cells(pair, console)))
        block = _worst_block(pair)
        second = Text.assemble((_nearest(pair), _style(pair)), f"; worst: {block}" if block else "")
        console.print(Padding(second, (0, 0, 0, 5)), overflow="fold")


def _first_line(*cells: str | Text) -> Table:
    line = Table.grid(padding=(0, 2, 0, 0), expand=True, pad_edge=False)
    line.add_column(width=1)
    line.add_column(ratio=1, overflow="fold")
    for _ in FIGURES:
        line.add_column(width=FIGURE_WIDTH, justify="right", overflow="fold")
    line.add_row(*cells)
    return line


def _cells(pair: PairResult, console: Console) -> tuple[Text, Text, Text, Text]:
    """Mark, name, mean KL and same top token."""
    metrics = pair.metrics
    return (
        mark(pair.passed, console),
        Text(clean(f"{pair.before} -> {pair.after}, {pair.check}")),
        Text(figure(metrics.kl_mean) if metrics else ""),
        Text(share(metrics.same_top) if metrics else ""),
    )


def _style(pair: PairResult) -> str:
    return "" if pair.passed else "red"


def _nearest(pair: PairResult) -> str:
    line = nearest_line(pair)
    if line is None:
        return "no budget"
    value, limit = value_and_limit(line)
    return f"{clean(line.name)} {value} / {limit}{_greedy(pair)}"


def _greedy(pair: PairResult) -> str:
    if pair.num_greedy_tokens is None:
        return ""
    if pair.first_divergence is None:
        return f"; {pair.num_greedy_tokens} tokens equal"
    return f"; {pair.first_divergence} of {pair.num_greedy_tokens} tokens before the first other one"


def _worst_block(pair: PairResult) -> str:
    block = pair.worst_block
    if block is None:
        return ""
    return f"{clean(block.block)} {figure(block.accumulated if block.isolated is None else block.isolated)}"


def _print_failures(report: VerificationReport, console: Console) -> None:
    first = report.first_failure
    assert first is not None, "a report fails because a pair does"
    console.print()
    console.print(Text.assemble(("first wrong: ", "bold red"), (where(first), "bold")))
    for pair in report.pairs:
        if pair.passed:
            continue
        console.print(Text(clean(f"{pair.before} -> {pair.after}, {pair.check}:")))
        lines = Table.grid(padding=(0, 2))
        for line in exceeded(pair):
            value, limit = value_and_limit(line)
            bound = f"at {'least' if line.at_least else 'most'} {limit}"
            lines.add_row(Text(clean(line.name)), Text(value, style="red"), Text(bound))
        for column in lines.columns:
            column.overflow = "fold"
        console.print(Padding(lines, (0, 0, 0, 2)))
    console.print()
    steps = Table.grid(padding=(0, 2))
    steps.add_row("next:", Text("--bisect", "bold"), "finds the smallest subgraph that is wrong and writes it")
    steps.add_row("", Text("--report DIR", "bold"), "writes a page with every figure, JSON and JUnit XML")
    console.print(steps)


def _verdict_line(report: VerificationReport) -> Text:
    if not report.pairs:
        word, style = "nothing to say", "bold yellow"
    else:
        word, style = ("pass", "bold green") if report.passed else ("fail", "bold red")
    return Text.assemble((word, style), f": {verdict(report)}, {seconds(report.seconds)}")
