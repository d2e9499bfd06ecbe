"""What docs/numerics.md says in numbers: the default budgets, and the golden figures.

The parts between marks are written here, from the code and from the golden files, so that they cannot say anything
else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields

from golden.cases import DEMO_MODELS, PRECISIONS, REPOSITORY, Case
from golden.files import read_golden
from golden.summary import FIGURES, Summary

DOCUMENT = REPOSITORY / "docs" / "numerics.md"
KINDS = {"fp16": ["fp16"], "bf16": ["bf16", "fp16 prefill bf16"], "int8": ["int8", "int8 with head"], "w8a8": ["w8a8"]}
"""Budget -> the precisions it holds for."""

# What is compared -> how its lines are told apart, and the budget of its blocks.
_EXACT = r"original -> modeling file, float32"
_PARTS = r", \d+ ranks?, (in chunks|token by token)"
STEPS = {
    "original -> modeling file, both in float32": (_EXACT, "modeling_error"),
    "modeling file: float32 -> as stored": (r"modeling file, float32 -> modeling file, 1 rank", "rounding_error"),
    "modeling file: one rank -> several": (r"modeling file, 1 rank -> modeling file.*", "exact_error"),
    "modeling file: in chunks, token by token": (
        r"modeling file, \d+ ranks?, (in chunks|token by token)",
        "exact_error",
    ),
    "modeling file -> exported ONNX": (r"modeling file.* -> exported ONNX.*", "exact_error"),
    "exported -> simplified ONNX": (r"exported ONNX.* -> simplified ONNX.*", "exact_error"),
    "simplified ONNX: in chunks, token by token": (
        r"simplified ONNX, \d+ ranks?, (in chunks|token by token)",
        "exact_error",
    ),
    "simplified ONNX -> compiled": (r"simplified ONNX.* -> compiled.*", "block_error"),
    "compiled: in chunks, token by token": (r"compiled" + _PARTS, "block_error"),
}


def render() -> dict[str, str]:
    """Every part of the document, by the name in its marks."""
    golden = read_golden()
    return {
        "budgets": render_budgets(),
        "excluded": render_excluded(),
        "noise": render_noise(),
        "measured": render_measured(golden),
        "steps": render_steps(golden),
    }


def update_document() -> None:
    """Write every part into docs/numerics.md."""
    for name, part in render().items():
        replace_part(name, part)


def replace_part(name: str, part: str) -> None:
    """Write what stands between the marks of a part."""
    begin, end = marks(name)
    head, found, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    assert found and end in rest, f"docs/numerics.md has the marks of {name}"
    DOCUMENT.write_text(f"{head}{begin}\n{part}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def marks(name: str) -> tuple[str, str]:
    """What stands before and after a part."""
    return f"<!-- {name}: begin, written by make numerics-update -->", f"<!-- {name}: end -->"


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]], num_texts: int = 1) -> str:
    """A table whose first columns are text and whose other ones are figures."""
    titles = list(titles)
    rule = f"|{'---|' * num_texts}{'---:|' * (len(titles) - num_texts)}"
    head, *lines = (f"| {' | '.join(cells)} |" for cells in (titles, *rows))
    return "\n".join([head, rule, *lines])


def render_budgets() -> str:
    """The default budget of every precision."""
    from vamc_compiler.verify.budgets import Budget

    budgets = _budgets()
    rows = [
        [f"`{item.name}`", *(f"{getattr(budget, item.name):g}" for budget in budgets.values())]
        for item in fields(Budget)
    ]
    return _table(["", *budgets], rows)


def render_excluded() -> str:
    """What a certificate excludes and leaves open, in the certificate's own words."""
    from vamc_compiler.verify.faults import EXCLUDED, LEFT_OPEN

    rows = [["excluded", f"{check}", text] for check, text in EXCLUDED.items()]
    rows += [["left open", reason, text] for reason, text in LEFT_OPEN.items()]
    return _table(["", "comparison, or reason", "fault"], rows, 3)


def _budgets() -> Mapping[str, object]:
    """By kind, as the code has them."""
    from vamc_compiler.precision import ModelPrecision
    from vamc_compiler.verify.budgets import default_budget

    precisions = {
        "fp16": ModelPrecision(unquantized="float16", quantization=None, lm_head=False),
        "bf16": ModelPrecision(unquantized="bfloat16", quantization=None, lm_head=False),
        "int8": ModelPrecision(unquantized="float16", quantization="int8_per_channel", lm_head=False),
        "w8a8": ModelPrecision(unquantized="float16", quantization="w8a8_dynamic", lm_head=False),
    }
    return {kind: default_budget(precision, bfloat16_prefill=False) for kind, precision in precisions.items()}


def render_noise() -> str:
    """What counts as the same figure."""
    rows = [
        [f"`{name}`", figure.meaning, f"{figure.floor:g}", f"{figure.coarse_floor:g}", f"{figure.factor:g}"]
        for name, figure in FIGURES.items()
    ]
    titles = ["", "figure", "errors up to this are equal", "the same with w8a8", "above it, times the golden error"]
    return _table(titles, rows, 2)


def render_measured(golden: Mapping[Case, Summary]) -> str:
    """The original against what was compiled: the worst of all degrees, and the KL of each."""
    rows = []
    for model in DEMO_MODELS:
        for precision in PRECISIONS:
            found = {
                case.tp: figures
                for case, summary in sorted(golden.items())
                if (case.model, case.precision) == (model, precision)
                for pair, figures in summary.pairs.items()
                if pair.startswith("original -> compiled") and "block" in figures
            }
            if not found:
                continue
            rows.append(
                [
                    model,
                    precision,
                    ", ".join(FIGURES["kl"].write(figures["kl"]) for figures in found.values()),
                    *(_worst(name, (figures[name] for figures in found.values())) for name in ("same", "ppl", "block")),
                ]
            )
    titles = ["", "", "mean KL on 1, 2, 3, 4 ranks", "same top where decided", "perplexity ratio", "block error"]
    return _table(titles, rows, 2)


def _worst(name: str, values: Iterable[float]) -> str:
    figure = FIGURES[name]
    return figure.write(max(values, key=figure.error))


def render_steps(golden: Mapping[Case, Summary]) -> str:
    """The largest block error of every step over all models and degrees, beside its budget."""
    rows = []
    for step, (pattern, budget) in STEPS.items():
        cells, figure = [], "block32" if pattern == _EXACT else "block"
        for kind, precisions in KINDS.items():
            errors = [
                figures[figure]
                for case, summary in golden.items()
                if case.precision in precisions
                for pair, figures in summary.pairs.items()
                if re.fullmatch(pattern, pair)
            ]
            limit = getattr(_budgets()[kind], budget)
            cells.append(f"{FIGURES[figure].write(max(errors, default=math.nan))} / {limit:g}")
        rows.append([step, *cells])
    return _table(["largest block error / budget", *KINDS], rows)
