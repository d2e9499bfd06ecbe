"""Draw the JSON of `run.py` as bars: `.envs/plot/bin/python plot.py RESULT.json RESULT.svg`."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")  # no display needed
import matplotlib.pyplot as plt

OURS, THEIRS = "#c8501e", "#7a8ba0"


def draw_phase(axes: Any, result: dict[str, Any], phase: str) -> None:
    """One bar for each contestant: the median of undisturbed rounds, with a line from the smallest to the largest."""
    found: dict[str, list[float]] = {}
    for sample in result["samples"]:
        if sample["phase"] == phase and not sample["disturbed"]:
            found.setdefault(sample["contestant"], []).append(sample["tokens_per_s"])
    names = sorted(found, key=lambda name: statistics.median(found[name]))
    medians = [statistics.median(found[name]) for name in names]
    below = [median - min(found[name]) for name, median in zip(names, medians, strict=True)]
    above = [max(found[name]) - median for name, median in zip(names, medians, strict=True)]
    colours = [OURS if name.startswith("vamc") else THEIRS for name in names]
    bars = axes.barh([result["titles"][name] for name in names], medians, xerr=[below, above], color=colours)
    axes.bar_label(bars, [f"{median:.1f}" for median in medians], padding=4, fontsize=8)
    axes.margins(x=0.15)
    axes.set_title(phase, loc="left")
    axes.set_xlabel("tokens per second")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """One panel for each phase, below each other."""
    source, target = map(Path, sys.argv[1:])
    result = json.loads(source.read_text(encoding="utf-8"))
    phases = list(dict.fromkeys(sample["phase"] for sample in result["samples"]))
    height = 0.9 + 0.32 * len(result["titles"])
    size = (9, height * len(phases))
    figure, panels = plt.subplots(len(phases), 1, figsize=size, squeeze=False, layout="constrained")
    for axes, phase in zip(panels[:, 0], phases, strict=True):
        draw_phase(axes, result, phase)
    conditions, shape = result["conditions"], result["shape"]
    figure.suptitle(f"{shape['name']}, {conditions['CPU']}, {conditions['date']}", fontsize=10)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
