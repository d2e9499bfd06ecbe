"""The report as one HTML page that needs nothing else: no network, no other file, no JavaScript to be read."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from vamc_compiler.verify.report import sections
from vamc_compiler.verify.report.detail import pair_section
from vamc_compiler.verify.report.figures import nearest_line, spent, verdict
from vamc_compiler.verify.report.markup import tag, text
from vamc_compiler.verify.result import PairResult, VerificationReport


def _data(name: str) -> str:
    """A file that lies beside this one."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def render_html(report: VerificationReport) -> str:
    """The page.

    Comparisons outside their budget stand open; where there are none, the one nearest its limit does.
    """
    style, script = _data("page.css"), _data("page.js")
    opened = _opened(report)
    body = [
        sections.header(report),
        sections.overview(report) if report.pairs else "",
        sections.depth(report),
        tag("h2", "In detail", id="detail") if report.pairs else "",
        *(pair_section(i, pair, opened=i in opened) for i, pair in enumerate(report.pairs)),
        sections.facts(report),
        tag("footer", tag("p", "Errors are relative where nothing else is said. KL is KL(before ‖ after) in nats.")),
    ]
    title = f"{report.name}: {verdict(report)}"
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">',
        tag("title", text(title)),
        f"<style>\n{style}</style>",
    ]
    parts = ["<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", "<main>"]
    parts += [*(part for part in body if part), "</main>", f"<script>{script}</script>", "</body>", "</html>", ""]
    return "\n".join(parts)


def _policy(script: str) -> str:
    """Lets the browser load nothing and run this script alone, should a report's text ever become markup."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _opened(report: VerificationReport) -> set[int]:
    failed = {i for i, pair in enumerate(report.pairs) if not pair.passed}
    if failed or not report.pairs:
        return failed
    return {max(range(len(report.pairs)), key=lambda i: _taken(report.pairs[i]))}


def _taken(pair: PairResult) -> float:
    line = nearest_line(pair)
    return -1.0 if line is None else spent(line)
