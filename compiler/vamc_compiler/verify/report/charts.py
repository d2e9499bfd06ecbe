"""The two charts of the page, as inline SVG whose colours the style sheet sets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vamc_compiler.verify.report.figures import figure
from vamc_compiler.verify.report.markup import tag, text
from vamc_compiler.verify.report.scales import Histogram, LogScale, histogram, round_step
from vamc_compiler.verify.result import BlockError, LogitMetrics

WIDTH, HEIGHT = 520.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 20.0, 18.0, 46.0
END_BAR, END_GAP = 24.0, 20.0
"""Bars at the ends of the histogram, and what parts them from the bins."""
NUM_COLOURS = 8
NUM_DASHES = 4
MAX_TICKS = 7


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of the depth chart."""

    label: str
    index: int
    """Chooses colour and dashes, the same in every chart."""
    blocks: Sequence[BlockError]
    failed: bool

    @property
    def class_(self) -> str:
        """Of the line in the style sheet."""
        return f"series c{self.index % NUM_COLOURS} d{self.index // NUM_COLOURS % NUM_DASHES}{' failed' * self.failed}"


def _svg(label: str, content: str, class_: str) -> str:
    return tag("svg", content, viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}", role="img", aria_label=label, class_=class_)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _label(x: float, y: float, content: str, class_: str = "") -> str:
    return tag("text", text(content), x=x, y=y, class_=class_)


def _power(exponent: int) -> str:
    return "1" if exponent == 0 else f"1e{exponent}"


# --- error over depth ---


def depth_chart(title: str, series: Sequence[Series], value: Callable[[BlockError], float | None]) -> str:
    """Error over the depth of the model: a line for each comparison, logarithmic upward.

    Args:
        title: what is drawn, for those who cannot see it.
        series: the lines.
        value: the figure of a block; None where it was not measured. A zero is a ring at the lower end, what is not
            a number a cross at the upper end; neither is part of the line.
    """
    measured = [v for line in series for block in line.blocks if (v := value(block)) is not None]
    scale = LogScale.over(measured, min_decades=2)
    longest = max((line.blocks for line in series), key=len, default=())
    parts = [_value_axis(scale), _block_axis(longest)]
    # Failed lines last: on top.
    for line in sorted(series, key=lambda line: line.failed):
        points = [(block, _block_x(i, len(longest)), value(block)) for i, block in enumerate(line.blocks)]
        parts.append(
            tag("g", _path(points, scale) + _points(points, scale), class_=line.class_, data_series=line.index)
        )
    return _svg(title, "\n".join(parts), "chart depth")


def _y(place: float) -> float:
    return HEIGHT - BOTTOM - place * (HEIGHT - BOTTOM - TOP)


def _block_x(index: int, count: int) -> float:
    return LEFT + 6 + (index / max(1, count - 1)) * (WIDTH - LEFT - RIGHT - 12)


def _value_axis(scale: LogScale) -> str:
    parts = []
    for exponent in scale.ticks(MAX_TICKS):
        y = _y((exponent - scale.low) / (scale.high - scale.low))
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "grid") + _label(LEFT - 8, y + 4, _power(exponent), "end"))
    return "".join(parts)


def _block_axis(blocks: Sequence[BlockError]) -> str:
    """Ticks at the first block of some layers; at blocks where their names tell no layers."""
    first: dict[int, int] = {}
    for i, block in enumerate(blocks):
        match = re.search(r"layer (\d+)", block.block)
        if match:
            first.setdefault(int(match.group(1)), i)
    named = first or {block.index: i for i, block in enumerate(blocks)}
    step = round_step(len(named), MAX_TICKS)
    parts = [_line(LEFT, _y(0), WIDTH - RIGHT, _y(0), "axis")]
    for number, i in list(named.items())[::step]:
        x = _block_x(i, len(blocks))
        parts.append(_line(x, _y(0), x, _y(0) + 4, "axis") + _label(x, _y(0) + 18, str(number), "middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(_label(middle, HEIGHT - 8, "layer" if first else "block", "middle"))
    return "".join(parts)


Points = Sequence[tuple[BlockError, float, float | None]]


def _path(points: Points, scale: LogScale) -> str:
    """The line, broken where a figure has no place on a logarithmic scale."""
    commands, drawing = [], False
    for _, x, value in points:
        if value is None or not math.isfinite(value) or value <= 0:
            drawing = False
            continue
        commands.append(f"{'L' if drawing else 'M'}{x:.1f} {_y(scale.place(value)):.1f}")
        drawing = True
    return tag("path", d="".join(commands)) if commands else ""


def _points(points: Points, scale: LogScale) -> str:
    radius = 2.4 if len(points) <= 60 else 1.4
    parts = []
    for block, x, value in points:
        if value is None:
            continue
        title = tag("title", text(f"{block.block}: {figure(value)}"))
        if math.isfinite(value):
            ring = "ring" if value <= 0 else ""
            parts.append(tag("circle", title, cx=x, cy=_y(scale.place(value)), r=radius, class_=ring))
        else:
            cross = f"M{x - 4:.1f} {TOP - 4:.1f}l8 8m0 -8l-8 8"
            parts.append(tag("path", title, d=cross, class_="cross"))
    return "".join(parts)


def swatch(series: Series) -> str:
    """A piece of the series' line, for the legend."""
    content = tag("g", _line(1, 6, 31, 6, "") + tag("circle", cx=16, cy=6, r=2.4), class_=series.class_)
    return tag("svg", content, viewBox="0 0 32 12", width=32, height=12, aria_hidden="true", class_="swatch")


# --- KL histogram ---


def kl_chart(title: str, values: Sequence[float], metrics: LogitMetrics | None) -> str:
    """Positions by their KL: a bar for zeros and what is too small, logarithmic bins, a bar for what is not a number.

    Args:
        title: for those who cannot see it.
        values: KL of every position, in nats.
        metrics: their mean and 99.9 % are marked.
    """
    bars = histogram(values)
    columns = [("below", bars.below), *(("bin", count) for count in bars.counts)]
    if bars.not_finite:
        columns.append(("odd", bars.not_finite))
    start = LEFT + END_BAR + END_GAP
    unit = (WIDTH - RIGHT - start - (END_BAR + END_GAP) * bool(bars.not_finite)) / len(bars.counts)
    step = round_step(max(count for _, count in columns), 5)
    top = step * max(1, math.ceil(max(count for _, count in columns) / step))
    parts = [_count_axis(step, top)]
    for i, (kind, count) in enumerate(columns):
        x = {"below": LEFT, "bin": start + (i - 1) * unit, "odd": WIDTH - RIGHT - END_BAR}[kind]
        width = unit if kind == "bin" else END_BAR
        parts.append(_bar(x, width, count, top, kind, _bar_title(bars, kind, i - 1, count)))
    parts += [_line(LEFT, _y(0), WIDTH - RIGHT, _y(0), "axis"), _kl_axis(bars, start, unit)]
    if metrics is not None and bars.has_values:
        parts += _marks(bars, start, unit, metrics)
    return _svg(title, "\n".join(parts), "chart kl")


def _count_axis(step: int, top: int) -> str:
    parts = []
    for count in range(0, top + 1, step):
        y = _y(count / top)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "grid") + _label(LEFT - 8, y + 4, f"{count:,}", "end"))
    return "".join(parts)


def _bar(x: float, width: float, count: int, top: int, kind: str, title: str) -> str:
    if not count:
        return ""
    height = max(2.5, _y(0) - _y(count / top))  # one position among thousands is still seen
    gap = min(1.0, width / 8)
    content = tag("title", text(title))
    return tag(
        "rect",
        content,
        x=x + gap,
        y=_y(0) - height,
        width=width - 2 * gap,
        height=height,
        class_=f"bar {kind}".removesuffix(" bin"),
    )


def _bar_title(bars: Histogram, kind: str, index: int, count: int) -> str:
    positions = f"{count:,} position{'s' * (count != 1)}"
    if kind == "below":
        return f"{positions}: 0, or below {_power(bars.scale.low)}"
    if kind == "odd":
        return f"{positions}: not a number, or infinite"
    return f"{positions}: {bars.edge(index):.1e} to {bars.edge(index + 1):.1e}"


def _kl_axis(bars: Histogram, start: float, unit: float) -> str:
    y = _y(0) + 18
    parts = [_label(LEFT + END_BAR / 2, y, "0", "middle")]
    for exponent in bars.scale.ticks(MAX_TICKS - 1):
        x = start + (exponent - bars.scale.low) * bars.bins_per_decade * unit
        parts.append(_line(x, _y(0), x, _y(0) + 4, "axis") + _label(x, y, _power(exponent), "middle"))
    if bars.not_finite:
        parts.append(_label(WIDTH - RIGHT - END_BAR / 2, y, "NaN", "middle"))
    parts.append(_label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "KL of a position, nats", "middle"))
    return "".join(parts)


def _marks(bars: Histogram, start: float, unit: float, metrics: LogitMetrics) -> list[str]:
    """Mean and 99.9 %, each with its name beside its line; one below the other."""
    parts = []
    for i, (name, value) in enumerate((("mean", metrics.kl_mean), ("99.9 %", metrics.kl_p999))):
        if not math.isfinite(value) or value <= 0:
            continue
        x = start + bars.scale.place(value) * len(bars.counts) * unit
        y = TOP + 16 * i
        side, shift = ("end", -4) if x > WIDTH * 0.8 else ("", 4)
        parts.append(
            _line(x, y - 8, x, _y(0), "mark") + _label(x + shift, y, f"{name} {figure(value)}", f"mark {side}")
        )
    return parts
