"""The golden files: one for each model in tests/golden/numerics.

    [int8, 4 ranks] znver4
    original -> compiled, 4 ranks          kl 4.8e-07  same 1.000  ppl 1.0000  block 1.4e-02  rms 6.9e-03

`znver4` is the level of the library that ran; `<3e-08` is an error below the figure's noise floor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from golden.cases import DEMO_MODELS, Case, every_case
from golden.summary import FIGURES, Figures, Summary

FOLDER = Path(__file__).with_name("numerics")


def read_golden(folder: Path = FOLDER) -> dict[Case, Summary]:
    """The golden figures of every case that has some."""
    cases = {}
    for model in DEMO_MODELS:
        path = folder / f"{model}.txt"
        for heading, summary in (_read(path) if path.exists() else {}).items():
            precision, _, ranks = heading.rpartition(", ")
            cases[Case(model, precision, int(ranks.partition(" ")[0]))] = summary
    return cases


def _read(path: Path) -> dict[str, Summary]:
    """The cases of a file, by heading."""
    cases: dict[str, Summary] = {}
    pairs: dict[str, Figures] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if heading := re.fullmatch(r"\[(.+)\] (\S+)", line):
            pairs = {}
            cases[heading[1]] = Summary(library=heading[2], coarse=heading[1].startswith("w8a8"), pairs=pairs)
        elif line and not line.startswith("#"):
            pair, *figures = re.split(r" {2,}", line.rstrip())
            try:
                pairs[pair] = {name: _value(text) for name, text in (item.split(" ") for item in figures)}
            except ValueError as error:
                raise ValueError(f"{path}:{number}: no figures: {line!r}") from error
    return cases


def _value(text: str) -> float:
    """What is below the floor counts as none: the floor is what it may grow to."""
    return 0.0 if text.startswith("<") else float(text)


def write_golden(cases: Mapping[Case, Summary], folder: Path = FOLDER) -> None:
    """Write the files of all models, cases in the order of the matrix; what left the matrix is left out."""
    for model in DEMO_MODELS:
        lines = [
            f"# What `vamc verify` finds for {model}. `make numerics` compares with these figures,",
            "# `make numerics-update` rewrites them. Every line is a comparison of two stages:",
            *(f"#   {name:<7} {figure.meaning}" for name, figure in FIGURES.items()),
        ]
        for case in every_case():
            if case.model == model and case in cases:
                lines += ["", f"[{case.heading}] {cases[case].library}", *_lines(cases[case])]
        (folder / f"{model}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(summary: Summary) -> Iterator[str]:
    width = max(map(len, summary.pairs))
    for pair, figures in summary.pairs.items():
        texts = (f"{name} {FIGURES[name].write(value)}" for name, value in figures.items())
        yield f"{pair:<{width}}  " + "  ".join(texts)
