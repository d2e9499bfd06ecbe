"""Figures and names as text: the same in the terminal, on the page and in JUnit XML."""

from __future__ import annotations

import math
import re

from vamc_compiler.verify.result import BudgetLine, PairResult, VerificationReport

SHARE_NAME = re.compile(r"same|top|overlap|share", re.IGNORECASE)
"""Budgets whose figures are shares, when they lie between 0 and 1."""
# What XML 1.0 cannot hold; a browser or a terminal shows nothing useful for these either.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
FRACTION = re.compile(r"\.(\d*?)0*(?=\D|$)")
MAX_EXTRA_DIGITS = 12


def clean(text: str) -> str:
    """The text with U+FFFD in place of control characters and lone surrogates."""
    return UNPRINTABLE.sub("\ufffd", text)


def figure(value: float, extra: int = 0) -> str:
    """A figure in few characters: `2.6e-07`, `1.00002`, `256`, `NaN`.

    Args:
        value: any float.
        extra: digits beyond the usual ones.
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if value == int(value) and size < 1e6:
        return f"{int(value):,}"
    if 0.1 <= size < 10:
        usual = 5 if 0.9 < size < 1.1 else 3  # ratios and cosines differ from 1 by little
        return f"{value:.{usual + extra}f}"
    if 10 <= size < 1e5:
        return f"{value:,.{2 + extra}f}"
    return f"{value:.{1 + extra}e}"


def share(value: float, extra: int = 0) -> str:
    """A share in percent; 100 % is all of it, never almost all."""
    if not math.isfinite(value):
        return figure(value)
    digits = 2 + extra
    while value < 1 and digits < MAX_EXTRA_DIGITS and float(f"{100 * value:.{digits}f}") >= 100:
        digits += 1
    return f"{100 * value:.{digits}f} %"


def seconds(value: float) -> str:
    """A duration."""
    if not math.isfinite(value):
        return figure(value)
    return f"{value:.1f} s" if value < 120 else f"{int(value) // 60} min {int(value) % 60} s"


def _trimmed(shown: str) -> str:
    """A limit as one would write it: `1.001`, not `1.00100`."""
    return FRACTION.sub(lambda match: f".{match.group(1)}" if match.group(1) else "", shown, count=1)


def value_and_limit(line: BudgetLine) -> tuple[str, str]:
    """A budgeted figure and its limit, with as many digits as it takes to tell them apart."""
    is_share = SHARE_NAME.search(line.name) and 0 <= line.limit <= 1 and not line.value > 1
    show = share if is_share else figure
    extra = 0
    while line.value != line.limit and extra < MAX_EXTRA_DIGITS and show(line.value, extra) == show(line.limit, extra):
        extra += 1
    return show(line.value, extra), _trimmed(show(line.limit))


def against_limit(line: BudgetLine) -> str:
    """For example `mean KL 0.310, at most 1e-05`."""
    value, limit = value_and_limit(line)
    return f"{clean(line.name)} {value}, at {'least' if line.at_least else 'most'} {limit}"


def spent(line: BudgetLine) -> float:
    """How much of its budget a figure takes: 0 none, 1 all, above 1 too much.

    A share that must be at least 0.99 takes half of it at 0.995, a ratio that may be 1.01 at most takes half at 1.005.
    """
    value, limit = line.value, line.limit
    if not math.isfinite(value) or not math.isfinite(limit):
        return 0.0 if line.passed else math.inf
    if line.at_least:
        part, whole = (1 - value, 1 - limit) if limit <= 1 else (limit, value)
    else:
        origin = 1.0 if "ratio" in line.name and limit > 1 else 0.0
        part, whole = value - origin, limit - origin
    if whole <= 0:
        return 0.0 if line.passed else math.inf
    return max(0.0, part / whole)


def nearest_line(pair: PairResult) -> BudgetLine | None:
    """The figure that takes most of its budget; None without budgets."""
    return max(pair.budgets, key=lambda line: (not line.passed, spent(line)), default=None)


def exceeded(pair: PairResult) -> list[BudgetLine]:
    """The figures outside their bounds."""
    return [line for line in pair.budgets if not line.passed]


def where(pair: PairResult) -> str:
    """Where a failed pair goes wrong, as far as it is known."""
    return clean(str(pair.location) if pair.location else pair.after)


def comparisons(count: int) -> str:
    """Counts comparisons."""
    return f"{count} comparison{'s' * (count != 1)}"


def verdict(report: VerificationReport) -> str:
    """The outcome in one sentence, without a full stop."""
    total, failed = len(report.pairs), sum(not pair.passed for pair in report.pairs)
    if not total:
        return "nothing was compared"
    if not failed:
        return f"{'all ' * (total > 1)}{comparisons(total)} within budget"
    return f"{failed} of {comparisons(total)} outside {'their' if failed > 1 else 'its'} budget"


def ranks_text(report: VerificationReport) -> str:
    """For example `2 ranks`."""
    return f"{report.num_ranks} rank{'s' * (report.num_ranks != 1)}"


def greedy_text(pair: PairResult) -> str:
    """How far the generated tokens are those that the stage before would have chosen."""
    if pair.first_divergence is None:
        return f"All {pair.num_greedy_tokens} generated tokens are those that {pair.before} chooses."
    return (
        f"Of {pair.num_greedy_tokens} generated tokens the first {pair.first_divergence} are those that {pair.before} "
        "chooses; the next is another."
    )
