"""The parts of the page: what was verified, the comparisons at a glance, and everything about one comparison."""

from __future__ import annotations

import math

from vamc_compiler.verify.report.charts import Series, depth_chart, kl_chart, swatch
from vamc_compiler.verify.report.figures import (
    figure,
    nearest_line,
    ranks_text,
    seconds,
    share,
    spent,
    value_and_limit,
    verdict,
    where,
)
from vamc_compiler.verify.report.heatmap import heat_map
from vamc_compiler.verify.report.markup import described, row, table, tag, text
from vamc_compiler.verify.result import (
    BudgetLine,
    ErrorStatistics,
    LogitMetrics,
    PairResult,
    VerificationReport,
    WorstToken,
)

VISIBLE_SPACE = str.maketrans({"\n": "↵", "\r": "␍", "\t": "⇥"})


def _code(value: str) -> str:
    return tag("code", text(value))


def _number(content: str, label: str, **attributes: str) -> str:
    """A cell with a figure; the label stands before it where the table is too wide for the screen."""
    return tag("td", content, class_="n", data_label=label, **attributes)


def _mark(passed: bool) -> str:
    name = "within budget" if passed else "outside budget"
    return tag(
        "span",
        "✓" if passed else "✗",
        class_=f"mark {'good' if passed else 'bad'}",
        title=name,
        role="img",
        aria_label=name,
    )


def _pair_name(pair: PairResult) -> str:
    return f"{text(pair.before)} {tag('span', '→', class_='to')} {text(pair.after)}"


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
        found = f"First wrong: <strong>{text(where(first))}</strong>, seen in {_pair_name(first)}, {text(first.check)}."
        if first.location is None or not first.location.op:
            found += f" {_code('vamc verify --bisect')} narrows it down."
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
                ("Reference", text(report.reference or "none: what follows is compared with its first stage")),
                ("Tokens", f"{tokens.num_tokens:,}: {text(tokens.description)}"),
                ("CPU", text(report.cpu)),
                ("Library", text(report.library)),
                ("Time", text(seconds(report.seconds))),
                ("Checkpoint digest", _code(report.checkpoint_digest)),
                ("Token digest", _code(tokens.digest)),
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
    rows = [_overview_row(i, pair) for i, pair in enumerate(report.pairs)]
    return tag(
        "section",
        tag("h2", "Comparisons")
        + tag("p", "Each stage is measured against the one before it, on the same tokens.", class_="note")
        + table(head, rows, class_="overview stack", caption="Comparisons of stages"),
        id="comparisons",
    )


def _overview_row(index: int, pair: PairResult) -> str:
    metrics, block = pair.metrics, pair.worst_block
    link = tag("a", _pair_name(pair), href=f"#pair-{index}")
    worst = ""
    if block is not None:
        error = block.accumulated if block.isolated is None else block.isolated
        worst = f"{text(block.block)} {tag('span', figure(error), class_='figure')}"
    cells = [
        tag("td", _mark(pair.passed), class_="state"),
        tag("th", f"{link}<small>{text(pair.check)}</small>", scope="row"),
        _number(figure(metrics.kl_mean) if metrics else "", "mean KL"),
        _number(share(metrics.same_top) if metrics else "", "same top"),
        _number(figure(metrics.perplexity_ratio) if metrics else "", "perplexity ratio"),
        tag("td", _nearest(nearest_line(pair)), data_label="nearest its limit"),
        tag("td", worst, data_label="worst block"),
        _number(text(seconds(pair.seconds)), "time"),
    ]
    return row(cells)


def _nearest(line: BudgetLine | None) -> str:
    if line is None:
        return "no budget"
    value, limit = value_and_limit(line)
    return f"{text(line.name)} {tag('span', f'{value} of {limit}', class_='figure')}{_meter(line)}"


def _meter(line: BudgetLine) -> str:
    """A bar of how much of its budget a figure takes."""
    width = min(1.0, spent(line)) if line.passed else 1.0
    fill = tag("i", style=f"width:{100 * width:.1f}%", class_="" if line.passed else "bad")
    return tag("span", fill, class_="meter", title=f"takes {_spent_text(line)} of its budget", aria_hidden="true")


def _spent_text(line: BudgetLine) -> str:
    taken = spent(line)
    if math.isinf(taken):
        return "–" if line.passed else "∞"
    return f"{100 * taken:.3g} %" if taken < 10 else f"{figure(round(taken))} ×"


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


# --- one comparison ---


def pair_section(index: int, pair: PairResult, *, opened: bool) -> str:
    """Everything about a comparison, folded under its name."""
    name = f"{_mark(pair.passed)} <span>{_pair_name(pair)}, {text(pair.check)}</span>"
    parts = []
    if not pair.passed:
        parts.append(tag("p", f"Goes wrong in <strong>{text(where(pair))}</strong>.", class_="where"))
    parts.append(_part("Budget", _budget_table(pair)))
    if pair.metrics is not None:
        parts.append(_part("Logits", _metrics(pair.metrics), "logits"))
    if pair.kl:
        parts.append(_part("KL over positions", _kl(pair)))
    if pair.blocks:
        parts.append(_part("Errors by block", heat_map(pair), "blocks"))
    if pair.worst_tokens:
        parts.append(_part("Worst tokens", _worst_tokens(pair.worst_tokens), "tokens"))
    body = tag("div", "\n".join(parts), class_="parts")
    return tag("details", tag("summary", name) + body, id=f"pair-{index}", open=opened)


def _part(title: str, content: str, class_: str = "") -> str:
    return tag("div", tag("h3", text(title)) + content, class_=f"part {class_}".strip())


def _budget_table(pair: PairResult) -> str:
    if not pair.budgets:
        return tag("p", "This comparison has no budget.", class_="note")
    rows = []
    for line in pair.budgets:
        value, limit = value_and_limit(line)
        bound = f"at {'least' if line.at_least else 'most'} {limit}"
        cells = [
            tag("th", text(line.name), scope="row"),
            _number(value, "value", title=repr(line.value)),
            _number(bound, "limit", title=repr(line.limit)),
            tag("td", f"{_meter(line)}<small>{_spent_text(line)}</small>", class_="spent"),
        ]
        rows.append(tag("tr", "".join(cells), class_="" if line.passed else "failed") + "\n")
    return table(("figure", "#value", "#limit", "taken"), rows, class_="budget")


def _metrics(metrics: LogitMetrics) -> str:
    low, high = figure(metrics.perplexity_ratio_low), figure(metrics.perplexity_ratio_high)
    ratio = f"{figure(metrics.perplexity_ratio)}{tag('small', f'95 %: {low} to {high}')}"
    figures = described(
        [
            ("positions", f"{metrics.num_positions:,}"),
            ("same top token", share(metrics.same_top)),
            ("same where decided", share(metrics.same_decided)),
            ("top-5 overlap", share(metrics.top5_overlap)),
            ("cosine, smallest", figure(metrics.cosine_min)),
            ("cosine, mean", figure(metrics.cosine_mean)),
            ("KL, mean", figure(metrics.kl_mean)),
            ("KL, median", figure(metrics.kl_median)),
            ("KL, 99.9 %", figure(metrics.kl_p999)),
            ("KL, largest", figure(metrics.kl_max)),
            ("perplexity before", figure(metrics.perplexity_before)),
            ("perplexity after", figure(metrics.perplexity_after)),
            ("ratio", ratio),
        ],
        "metrics",
    )
    rows = [_statistics("absolute", metrics.absolute), _statistics("relative", metrics.relative)]
    return figures + table(("logit error", "#mean", "#median", "#99 %", "#99.9 %", "#max"), rows, class_="errors")


def _statistics(name: str, errors: ErrorStatistics) -> str:
    values = (errors.mean, errors.median, errors.p99, errors.p999, errors.max)
    return row([tag("th", name, scope="row"), *(tag("td", figure(value), class_="n") for value in values)])


def _kl(pair: PairResult) -> str:
    if all(value == 0 for value in pair.kl):
        return tag("p", f"KL is 0 at all {len(pair.kl):,} positions.", class_="note")
    title = f"Positions by KL, {pair.before} to {pair.after}, {pair.check}"
    return kl_chart(title, pair.kl, pair.metrics)


def _worst_tokens(tokens: tuple[WorstToken, ...]) -> str:
    rows = [
        row(
            [
                tag("td", f"{token.position:,}", class_="n", data_label="position"),
                tag("td", _token_text(token.context), class_="context", data_label="context"),
                tag("td", _token_text(token.expected), data_label="expected"),
                tag("td", _token_text(token.found), data_label="found"),
                tag("td", _token_text(token.actual), data_label="actual"),
                _number(figure(token.kl), "KL"),
            ]
        )
        for token in tokens
    ]
    head = ("#position", "context", "expected", "found", "actual", "#KL")
    note = "Expected is the likeliest next token before, found the likeliest after, actual the one in the text."
    return tag("p", note, class_="note") + table(head, rows, class_="words stack")


def _token_text(value: str) -> str:
    """Text of tokens with its line breaks to be seen; isolated from the direction of other text."""
    if not value:
        return tag("span", "nothing", class_="none")
    return tag("bdi", tag("code", text(value.translate(VISIBLE_SPACE))))
