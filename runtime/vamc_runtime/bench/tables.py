"""Results for people: a table of cases, and one of operations for each case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vamc_runtime.bench.measure import Result
from vamc_runtime.bench.profile import Profile
from vamc_runtime.quantities import significant

if TYPE_CHECKING:
    from rich.table import Table

MIN_SHARE = 0.002
"""Operations below this share of a step are summed up."""
MAX_NAME = 60
"""Characters of an operation's name; fused ones are called after all their parts."""


def heading(around: dict[str, Any]) -> Iterator[str]:
    """Lines that say what ran where."""
    stream, machine, versions = around["runstream"], around["machine"], around["versions"]
    ranks = f", {stream['ranks']} ranks" if stream["ranks"] > 1 else ""
    precision = stream["quantization"] or stream["weights"]
    yield f"{stream['name']}: {significant(stream['num_parameters'] / 1e6)} M parameters, {precision}{ranks}"
    threads = f"{around['threads']} thread{'s' * (around['threads'] > 1)}"
    yield f"{machine['cpu']}, {threads}, code for {stream['library']}, weights in {stream['weights_in']}"
    yield f"vamc {versions['vamc']}, apache-tvm {versions['compiled_with_apache-tvm']}, {around['date']}"


def case_table(results: list[Result], peak: str) -> Table:
    """One line for each case."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("case", no_wrap=True)
    for title in ("median", "min .. max", "tok/s", "roof", "share", "linear mul-adds", "attention"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        share = result.share_of_roof(peak)
        table.add_row(
            str(result.case),
            _ms(result.median_seconds),
            f"{_ms(min(result.seconds))} .. {_ms(max(result.seconds))}",
            significant(result.tokens_per_second),
            _roof(result, peak),
            "" if share is None else f"{100 * share:.0f} %",
            _giga(result.cost.linear_multiply_adds),
            _giga(result.cost.attention_multiply_adds),
        )
    return table


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.{1 if seconds >= 0.01 else 3}f} ms"


def _giga(count: int) -> str:
    return f"{count / 1e9:,.{1 if count >= 1e10 else 3}f} G"


def _roof(result: Result, peak: str) -> str:
    """What bounds the case, measured."""
    if result.read_bandwidth is not None:
        return f"{significant(result.read_bytes / 1e6)} MB at {significant(result.read_bandwidth / 1e9)} GB/s"
    return f"{peak} {significant(2 * result.peaks[peak] / 1e9)} GOP/s" if peak in result.peaks else ""


def op_table(profile: Profile) -> Table:
    """The operations of a step."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("operation", no_wrap=True, max_width=MAX_NAME, overflow="crop")
    for title in ("calls", "time", "share", "each", "weights"):
        table.add_column(title, justify="right", no_wrap=True)
    whole = profile.step_seconds
    shown = [op for op in profile.ops if op.seconds >= MIN_SHARE * whole]
    rest = [op for op in profile.ops if op.seconds < MIN_SHARE * whole]
    for op in shown:
        speed = f"{significant(op.weight_bytes / op.seconds / 1e9)} GB/s" if op.weight_bytes else ""
        each = f"{1e6 * op.seconds / max(op.calls, 1):,.1f} us"
        # Three dots: not every output has the character for them.
        name = op.name if len(op.name) <= MAX_NAME else f"{op.name[: MAX_NAME - 3]}..."
        table.add_row(name, f"{op.calls:,}", _ms(op.seconds), f"{100 * op.seconds / whole:.1f} %", each, speed)
    sums = [(f"{len(rest)} others", sum(op.calls for op in rest), sum(op.seconds for op in rest))] if rest else []
    outside = whole - sum(op.seconds for op in profile.ops)
    for name, calls, seconds in [*sums, ("between operations, with the watching", 0, outside)]:
        table.add_row(name, f"{calls:,}" if calls else "", _ms(seconds), f"{100 * seconds / whole:.1f} %", "", "")
    return table
