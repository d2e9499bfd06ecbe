"""What counts as worse, and that files give back what was written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from golden.cases import Case, every_case
from golden.files import read_golden, write_golden
from golden.summary import FIGURES, Summary, compare, updated

PAIR = "original -> compiled, 2 ranks"
GOLDEN = {
    "kl": 1e-4,
    "same": 0.98,
    "ppl": 1.01,
    "block": 0.01,
    "rms": 0.001,
    "block32": 2e-4,
    "rms32": 4e-5,
    "wrong": 0,
}


def summary(changes: Mapping[str, float] | None = None, *, coarse: bool = False) -> Summary:
    return Summary(library="znver4", coarse=coarse, pairs={PAIR: {**GOLDEN, **(changes or {})}})


@pytest.mark.parametrize(
    ("figure", "worse"),
    [
        ("kl", 1e-3),
        ("same", 0.9),
        ("ppl", 1.05),
        ("ppl", 0.95),
        ("block", 0.1),
        ("rms", 0.01),
        ("block32", 5e-4),
        ("wrong", 1),
    ],
)
def test_a_figure_that_got_worse_fails_and_is_named(figure: str, worse: float) -> None:
    (change,) = compare(summary(), summary({figure: worse}))
    assert change.is_worse
    meaning = FIGURES[figure].meaning
    golden, found = FIGURES[figure].write(GOLDEN[figure]), FIGURES[figure].write(worse)
    assert str(change) == f"{PAIR}: {meaning}: golden {golden}, found {found}"


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_worse(figure: Any, value: float) -> None:
    (change,) = compare(summary(), summary({figure: value}))
    assert change.is_worse


@pytest.mark.parametrize(("figure", "better"), [("kl", 1e-6), ("same", 1.0), ("ppl", 1.0), ("block", 1e-3)])
def test_a_better_figure_is_mentioned_and_does_not_fail(figure: str, better: float) -> None:
    (change,) = compare(summary(), summary({figure: better}))
    assert not change.is_worse


@pytest.mark.parametrize("figure", ["kl", "same", "ppl", "block", "rms", "block32", "rms32"])
def test_noise_is_no_change(figure: str) -> None:
    kind = FIGURES[figure]
    least = kind.floor * 0.9
    most = kind.error(GOLDEN[figure]) * kind.factor * 0.9
    for error in (most, most / kind.factor):
        value = math.exp(-error) if kind.ideal else error
        assert compare(summary(), summary({figure: value})) == []
    perfect = {figure: kind.ideal}
    assert compare(summary(perfect), summary({figure: math.exp(-least) if kind.ideal else least})) == []


def test_a_step_of_an_8_bit_activation_is_noise_with_w8a8_only() -> None:
    assert compare(summary({"block": 1e-4}, coarse=True), summary({"block": 9e-3}, coarse=True)) == []
    assert compare(summary({"block": 1e-4}), summary({"block": 9e-3}))[0].is_worse


def test_a_comparison_that_is_gone_fails_and_a_new_one_does_not() -> None:
    empty = Summary(library="znver4", coarse=False, pairs={})
    assert all(change.is_worse for change in compare(summary(), empty))
    assert len(compare(summary(), empty)) == len(GOLDEN)
    assert not any(change.is_worse for change in compare(empty, summary()))
    assert len(compare(empty, summary())) == len(GOLDEN)


def test_an_update_keeps_what_is_the_same_but_for_noise() -> None:
    found = summary({"kl": 1.1e-4, "block": 0.1})
    assert updated(summary(), found).pairs[PAIR] == GOLDEN | {"block": 0.1}
    assert updated(None, found) == found


def test_files_give_back_what_was_written(tmp_path: Path) -> None:
    case = Case("llama-mini", "int8 with head", 2)
    tiny = summary({"kl": 1e-12, "rms": 0.0})
    write_golden({case: tiny}, tmp_path)
    read = read_golden(tmp_path)
    assert list(read) == [case]
    assert compare(tiny, read[case]) == []
    assert compare(read[case], summary({"kl": FIGURES["kl"].floor * 1.5, "rms": 0.0}))[0].is_worse, (
        "the floor is not doubled"
    )
    assert "<3e-08" in (tmp_path / "llama-mini.txt").read_text()


def test_a_line_without_figures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "llama-mini.txt").write_text("[fp16, 1 rank] znver4\noriginal -> compiled  kl\n")
    with pytest.raises(ValueError, match=r"llama-mini\.txt:2: no figures"):
        read_golden(tmp_path)


def test_every_case_has_golden_figures() -> None:
    assert set(read_golden()) == set(every_case())
