"""Everything about one comparison, folded under its name."""

from __future__ import annotations

from vamc_compiler.verify.report.charts import kl_chart
from vamc_compiler.verify.report.figures import figure, greedy_text, share, value_and_limit, where
from vamc_compiler.verify.report.heatmap import heat_map
from vamc_compiler.verify.report.markup import described, row, table, tag, text
from vamc_compiler.verify.report.parts import mark, meter, number_cell, pair_name, spent_text
from vamc_compiler.verify.result import ErrorStatistics, LogitMetrics, PairResult, WorstToken

VISIBLE_SPACE = str.maketrans({"\n": "↵", "\r": "␍", "\t": "⇥"})


def pair_section(index: int, pair: PairResult, *, opened: bool) -> str:
    """Everything about a comparison, folded under its name."""
    name = f"{mark(pair.passed)} <span>{pair_name(pair)}, {text(pair.check)}</span>"
    parts = []
    if not pair.passed:
        parts.append(tag("p", f"Goes wrong in <strong>{text(where(pair))}</strong>.", class_="where"))
    if pair.num_greedy_tokens is not None:
        parts.append(tag("p", text(greedy_text(pair)), class_="note"))
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
            number_cell(value, "value", title=repr(line.value)),
            number_cell(bound, "limit", title=repr(line.limit)),
            tag("td", f"{meter(line)}<small>{text(spent_text(line))}</small>", class_="spent"),
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
                number_cell(figure(token.kl), "KL"),
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
