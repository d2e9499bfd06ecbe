"""The sections of the page about the whole verification; `detail` has those about one comparison."""

from __future__ import annotations

from vamc_compiler.verify.report.charts import Series, depth_chart, swatch
from vamc_compiler.verify.report.figures import (
    figure,
    nearest_line,
    ranks_text,
    seconds,
    share,
    value_and_limit,
    verdict,
    where,
)
from vamc_compiler.verify.report.markup import described, row, table, tag, text
from vamc_compiler.verify.report.parts import code, mark, meter, number_cell, pair_name
from vamc_compiler.verify.result import BudgetLine, PairResult, VerificationReport

# --- verdict, and what was verified ---


def header(report: VerificationReport) -> str:
    """Name, verdict, and where it first goes wrong."""
    state = "none" if not report.pairs else "good" if report.passed else "bad"
    sentence = verdict(report)
    parts = [
        tag("p", f"vamc verify · {text(report.date)}", class_="kicker"),
        tag("h1", text(report.name)),
        tag("p", text(f"{sentence[0].upper()}{sentence[1:]}."), class_=f"verdict {state}"),
    ]
    first = report.first_failure
    if first is not None:
        found = f"First wrong: <strong>{text(where(first))}</strong>, seen in {pair_name(first)}, {text(first.check)}."
        if first.location is None or not first.location.op:
            found += f" {code('vamc verify --bisect')} narrows it down."
        parts.append(tag("p", found, class_="where"))
    if report.warnings:
        parts.append(tag("ul", "".join(tag("li", text(warning)) for warning in report.warnings), class_="warnings"))
    return tag("header", "\n".join(parts))


def facts(report: VerificationReport) -> str:
    """What was verified, with what, and where."""
    tokens = report.tokens
    versions = "".join(tag("li", f"{text(name)} {text(version)}") for name, version in report.toolchain.items())
    return tag(
        "section",
        tag("h2", "What was verified")
        + described(
            [
                ("Model", text(report.model)),
                ("Precision", text(report.precision)),
                ("Ranks", text(ranks_text(report))),
                ("Reference", text(report.reference or "none")),
                ("Tokens", f"{tokens.num_tokens:,}: {text(tokens.description)}"),
                ("CPU", text(report.cpu)),
                ("Library", text(report.library)),
                ("Time", text(seconds(report.seconds))),
                ("Checkpoint digest", code(report.checkpoint_digest)),
                ("Token digest", code(tokens.digest)),
                ("Toolchain", tag("ul", versions, class_="inline")),
            ],
            "facts",
        ),
        id="facts",
    )


# --- the comparisons at a glance ---


def overview(report: VerificationReport) -> str:
    """A line for each comparison."""
    head = ("", "comparison", "#mean KL", "#same top", "#perplexity ratio", "nearest its limit", "worst block", "#time")
    note = "What stands after the arrow is measured against what stands before it, on the same tokens."
    rows = [_overview_row(i, pair) for i, pair in enumerate(report.pairs)]
    return tag(
        "section",
        tag("h2", "Comparisons")
        + tag("p", note, class_="note")
        + table(head, rows, class_="overview stack", caption="Comparisons of stages"),
        id="comparisons",
    )


def _overview_row(index: int, pair: PairResult) -> str:
    metrics, block = pair.metrics, pair.worst_block
    link = tag("a", pair_name(pair), href=f"#pair-{index}")
    worst = ""
    if block is not None:
        error = block.accumulated if block.isolated is None else block.isolated
        worst = f"{text(block.block)} {tag('span', figure(error), class_='figure')}"
    cells = [
        tag("td", mark(pair.passed), class_="state"),
        tag("th", f"{link}<small>{text(pair.check)}</small>", scope="row"),
        number_cell(figure(metrics.kl_mean) if metrics else "", "mean KL"),
        number_cell(share(metrics.same_top) if metrics else "", "same top"),
        number_cell(figure(metrics.perplexity_ratio) if metrics else "", "perplexity ratio"),
        tag("td", _nearest(nearest_line(pair)), data_label="nearest its limit"),
        tag("td", worst, data_label="worst block"),
        number_cell(text(seconds(pair.seconds)), "time"),
    ]
    return row(cells)


def _nearest(line: BudgetLine | None) -> str:
    if line is None:
        return "no budget"
    value, limit = value_and_limit(line)
    return f"{text(line.name)} {tag('span', f'{value} of {limit}', class_='figure')}{meter(line)}"


def depth(report: VerificationReport) -> str:
    """Error over depth, accumulated and isolated, for every comparison that has blocks."""
    series = [
        Series(label=f"{pair.before} → {pair.after}, {pair.check}", index=i, blocks=pair.blocks, failed=not pair.passed)
        for i, pair in enumerate(pair for pair in report.pairs if pair.blocks)
    ]
    if not series:
        return ""
    charts = [
        _chart(
            "Accumulated error",
            "Of the residual stream after each block, relative to the stream.",
            depth_chart("Accumulated error over depth", series, lambda block: block.accumulated),
        )
    ]
    if any(block.isolated is not None for line in series for block in line.blocks):
        charts.append(
            _chart(
                "Isolated error",
                "Of what each block adds when it is fed what the stage before fed it; largest over tokens.",
                depth_chart("Isolated error over depth", series, lambda block: block.isolated),
            )
        )
    legend = "".join(
        tag("li", f"{swatch(line)}{text(line.label)}{' ✗' * line.failed}", data_series=line.index) for line in series
    )
    return tag(
        "section",
        tag("h2", "Error over depth")
        + tag("div", "".join(charts), class_="charts")
        + tag("ul", legend, class_="legend"),
        id="depth",
    )


def _chart(title: str, note: str, svg: str) -> str:
    return tag("figure", tag("figcaption", f"<strong>{text(title)}</strong> {text(note)}") + svg)
