"""The heat map of the page: blocks by metrics, the figure in every cell, coloured by its logarithm."""

from __future__ import annotations

import math

from vamc_compiler.verify.report.figures import figure
from vamc_compiler.verify.report.markup import row, tag, text
from vamc_compiler.verify.report.scales import LogScale
from vamc_compiler.verify.result import BlockError, PairResult

NUM_LEVELS = 9
"""Colours in the style sheet: h0 to h8."""
MIN_DECADES = 2
LONG = 40
"""Rows from which the map scrolls in a box of its own."""
COLUMNS = {
    "accumulated": "error of the residual stream after the block, relative to the stream, root mean square",
    "isolated": "error of what the block adds when it is fed the stream of before, largest over tokens",
    "isolated rms": "the same, root mean square over tokens",
}


def _figures(block: BlockError) -> tuple[float | None, ...]:
    return block.accumulated, block.isolated, block.isolated_rms


def heat_map(pair: PairResult) -> str:
    """A table of the pair's blocks; the first wrong one is marked."""
    scale = LogScale.over(
        (value for block in pair.blocks for value in _figures(block) if value is not None), min_decades=MIN_DECADES
    )
    wrong = pair.location.block if pair.location else ""
    head = [tag("th", "block", scope="col")]
    head += [tag("th", text(name), scope="col", title=meaning) for name, meaning in COLUMNS.items()]
    head.append(tag("th", "at token", scope="col", title="position of the token with the largest isolated error"))
    rows = "".join(_row(block, scale, bool(wrong) and block.block == wrong) for block in pair.blocks)
    label = f"Errors of each block, {pair.before} to {pair.after}, {pair.check}"
    content = tag("table", f"<thead>{row(head)}</thead><tbody>{rows}</tbody>", class_="heat")
    if len(pair.blocks) > LONG:
        content = tag("div", content, class_="long", tabindex=0, role="region", aria_label=label)
    return content + _legend(scale)


def _row(block: BlockError, scale: LogScale, wrong: bool) -> str:
    name = text(block.block) + (tag("em", "first wrong") if wrong else "")
    cells = [tag("th", name, scope="row", title=block.tap)]
    cells += [_cell(value, scale) for value in _figures(block)]
    token = "" if block.worst_token is None else str(block.worst_token)
    cells.append(tag("td", token, class_="token"))
    return tag("tr", "".join(cells), class_="wrong" if wrong else "") + "\n"


def _cell(value: float | None, scale: LogScale) -> str:
    if value is None:
        return tag("td", "–", class_="none", title="not measured")
    if not math.isfinite(value):
        return tag("td", figure(value), class_="odd")
    level = round(scale.place(value) * (NUM_LEVELS - 1))
    return tag("td", figure(value), class_=f"h{level}", title=repr(value))


def _legend(scale: LogScale) -> str:
    steps = "".join(tag("i", class_=f"h{level}") for level in range(NUM_LEVELS))
    return tag(
        "p",
        f"<span>1e{scale.low}</span>{tag('span', steps, class_='ramp', aria_hidden='true')}<span>1e{scale.high}</span>",
        class_="scale",
    )
