"""Small parts that several sections of the page have."""

from __future__ import annotations

import math

from vamc_compiler.verify.report.figures import figure, spent
from vamc_compiler.verify.report.markup import tag, text
from vamc_compiler.verify.result import BudgetLine, PairResult


def code(value: str) -> str:
    """Digests and commands."""
    return tag("code", text(value))


def number_cell(content: str, label: str, **attributes: str) -> str:
    """A cell with a figure; the label stands before it where the table is too wide for the screen."""
    return tag("td", content, class_="n", data_label=label, **attributes)


def mark(passed: bool) -> str:
    """A tick or a cross, with words for those who cannot see it."""
    name = "within budget" if passed else "outside budget"
    return tag(
        "span",
        "✓" if passed else "✗",
        class_=f"mark {'good' if passed else 'bad'}",
        title=name,
        role="img",
        aria_label=name,
    )


def pair_name(pair: PairResult) -> str:
    """The stages of a comparison."""
    return f"{text(pair.before)} {tag('span', '→', class_='to')} {text(pair.after)}"


def meter(line: BudgetLine) -> str:
    """A bar of how much of its budget a figure takes."""
    width = min(1.0, spent(line)) if line.passed else 1.0
    fill = tag("i", style=f"width:{100 * width:.1f}%", class_="" if line.passed else "bad")
    return tag("span", fill, class_="meter", title=f"takes {spent_text(line)} of its budget", aria_hidden="true")


def spent_text(line: BudgetLine) -> str:
    """How much of its budget a figure takes, as plain text: `15.3 %`, `930 ×`."""
    taken = spent(line)
    if math.isinf(taken):
        return "–" if line.passed else "∞"
    if 0 < taken < 1e-4:
        return "< 0.01 %"
    return f"{100 * taken:.3g} %" if taken < 10 else f"{figure(round(taken))} ×"
