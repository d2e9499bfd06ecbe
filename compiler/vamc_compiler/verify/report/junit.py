"""JUnit XML, which CI systems show: one suite, one case for each comparison."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from vamc_compiler.verify.report.figures import against_limit, clean, exceeded, figure, where
from vamc_compiler.verify.result import PairResult, VerificationReport


def render_junit(report: VerificationReport) -> str:
    """The report as a JUnit XML document; characters that XML cannot hold become U+FFFD."""
    num_failures = sum(not pair.passed for pair in report.pairs)
    counts = {"tests": str(len(report.pairs)), "failures": str(num_failures), "errors": "0", "skipped": "0"}
    root = ET.Element("testsuites", {"name": "vamc verify", **counts, "time": f"{report.seconds:.3f}"})
    suite = ET.SubElement(
        root,
        "testsuite",
        # The schema's time stamps have no zone.
        {"name": clean(report.name), **counts, "time": f"{report.seconds:.3f}", "timestamp": clean(report.date[:19])},
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(report):
        ET.SubElement(properties, "property", name=clean(name), value=clean(value))
    for pair in report.pairs:
        _add_case(suite, pair)
    if report.warnings:
        ET.SubElement(suite, "system-out").text = clean("\n".join(f"warning: {text}" for text in report.warnings))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _properties(report: VerificationReport) -> list[tuple[str, str]]:
    return [
        ("model", report.model),
        ("precision", report.precision),
        ("ranks", str(report.num_ranks)),
        ("tokens", f"{report.tokens.num_tokens}: {report.tokens.description}"),
        ("token digest", report.tokens.digest),
        ("reference", report.reference),
        ("checkpoint digest", report.checkpoint_digest),
        ("cpu", report.cpu),
        ("library", report.library),
        *((f"toolchain {name}", version) for name, version in report.toolchain.items()),
    ]


def _add_case(suite: ET.Element, pair: PairResult) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=clean(f"{pair.before} -> {pair.after}"),
        name=clean(pair.check),
        time=f"{pair.seconds:.3f}",
    )
    if not pair.passed:
        lines = [against_limit(line) for line in exceeded(pair)]
        message = f"{where(pair)}: {'; '.join(lines)}"
        failure = ET.SubElement(case, "failure", type="outside budget", message=message)
        failure.text = "\n".join([f"where: {where(pair)}", *lines])
    figures = [against_limit(line) for line in pair.budgets]
    block = pair.worst_block
    if block is not None:
        isolated = "not measured" if block.isolated is None else figure(block.isolated)
        figures.append(f"worst block: {block.block}, accumulated {figure(block.accumulated)}, isolated {isolated}")
    if figures:
        ET.SubElement(case, "system-out").text = clean("\n".join(figures))
