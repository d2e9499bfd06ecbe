"""From measurements to what is shown and written; ranks and their figures are made up."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fake_runstream as fake
import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from vamc_runtime.bench.cases import Case
from vamc_runtime.bench.costs import RankWeights, fill_cache, rank_weights
from vamc_runtime.bench.measure import WARM_UPS, Result, measure, reference_peak
from vamc_runtime.bench.profile import OpTime, Profile, ProfileSteps
from vamc_runtime.bench.report import as_data, write_csv
from vamc_runtime.bench.roof import ReadOnce, StreamTimes, peaks
from vamc_runtime.bench.surroundings import RankSurroundings, surroundings
from vamc_runtime.bench.tables import case_table, heading, op_table
from vamc_runtime.errors import UserError
from vamc_runtime.executor import StepArguments
from vamc_runtime.manifest import Precision

T = TypeVar("T")
MANIFEST = fake.make_manifest()
PREFILL = Case(phase="prefill", batch=1, context=20)
DECODE = Case(phase="decode", batch=2, context=16)
WEIGHTS = RankWeights(read_bytes=1000, embedding_row_bytes=16, layer_multiply_adds=300, head_multiply_adds=70)
PROFILE = Profile(
    ops=(
        OpTime(name="linear_4x4", calls=2, seconds=0.5, weight_bytes=10**9),
        OpTime(name="add", calls=3, seconds=0.001, weight_bytes=0),
    ),
    step_seconds=0.75,
)


class FakeRanks:
    """Two ranks that answer every task with made-up figures, and note what they were asked."""

    def __init__(self, old: bool = False) -> None:
        self.old = old
        self.asked: list[str] = []

    def step(self, arguments: StepArguments) -> npt.NDArray[np.float32]:
        self.asked.append("step")
        return np.zeros((arguments.logits_index.size, 400), np.float32)

    def on_every_rank(self, task: Callable[[Any], T]) -> list[T]:
        answer: Any
        if task is peaks:
            if self.old:
                raise UserError("no function vamc_peak_fp32")
            answer = {"fp32": 1e9, "int8": 4e9}
        elif task is rank_weights:
            answer = WEIGHTS
        elif isinstance(task, functools.partial):
            assert task.func is fill_cache and task.keywords == {"num_pages": 8}
            answer = None
        elif isinstance(task, ReadOnce):
            answer = StreamTimes(weight_bytes=900, weight_seconds=1e-9, kv_bytes=100, kv_seconds=2e-9)
        else:
            assert isinstance(task, ProfileSteps)
            answer = PROFILE
        self.asked.append(getattr(task, "__name__", type(task).__name__))
        return [answer, answer]


def test_measure() -> None:
    ranks, begun = FakeRanks(), list[Case]()
    cases = [PREFILL, DECODE]
    prefill, decode = measure(ranks, MANIFEST, cases, repeat=3, with_ops=True, on_case=begun.append)
    assert begun == cases
    assert len(prefill.seconds) == len(decode.seconds) == 3
    assert prefill.peaks == {"fp32": 2e9, "int8": 8e9}, "of both ranks"
    assert not prefill.read_seconds
    assert prefill.share_of_roof("int8") == pytest.approx(prefill.linear_per_second / 8e9)
    assert decode.read_bytes == 2000 and decode.read_seconds == (1e-9 + 2e-9,) * 3
    assert decode.weight_read_seconds == (1e-9,) * 3
    assert decode.share_of_roof("int8") == pytest.approx(3e-9 / decode.median_seconds)
    assert decode.tokens_per_second == pytest.approx(2 / decode.median_seconds)
    assert prefill.profile == decode.profile == PROFILE
    turns = ["step"] * WARM_UPS + ["step", "ReadOnce"] * 3 + ["ProfileSteps"]
    assert ranks.asked[-len(turns) :] == turns, "a step and its roof take turns"


def test_old_libraries_are_refused_before_any_work() -> None:
    ranks = FakeRanks(old=True)
    with pytest.raises(UserError, match="vamc_peak_fp32"):
        measure(ranks, MANIFEST, [DECODE], repeat=1, with_ops=False, on_case=print)
    assert not ranks.asked


@pytest.mark.parametrize(
    ("weights", "prefill_precision", "peak"),
    [
        ("int8", None, "int8"),
        ("fp16", None, "fp32"),
        ("fp16", "fp32", "fp32"),
        ("fp16", "bf16", "bf16"),
        ("bf16", None, "bf16"),
    ],
)
def test_reference_peak(weights: str, prefill_precision: str | None, peak: str) -> None:
    precision = Precision(weights=weights, quantization=None, activations="float32", kv_cache="float16")
    settings = {"backend": {"compile": {"prefill_precision": prefill_precision}}}
    assert reference_peak(fake.make_manifest(precision=precision, settings=settings), "any") == peak
    if prefill_precision is None:
        assert reference_peak(fake.make_manifest(precision=precision), "any") == peak, "settings of older runstreams"


def test_tiles_are_not_measured(results: list[Result]) -> None:
    libraries = (fake.library("znver4", ["avx512_vnni"]), fake.library("sapphirerapids", ["amx_tile", "amx_int8"]))
    manifest = fake.make_manifest(libraries=libraries)
    assert reference_peak(manifest, "znver4") == "int8"
    assert reference_peak(manifest, "sapphirerapids") == ""
    assert results[0].share_of_roof("") is None and results[1].share_of_roof("") is not None
    assert as_data(results[0], "")["roof"] is None
    assert "prefill 20" in shown(case_table(results, ""))


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return measure(FakeRanks(), MANIFEST, [PREFILL, DECODE], repeat=3, with_ops=True, on_case=lambda case: None)


@pytest.fixture(scope="module")
def around() -> dict[str, Any]:
    rank = RankSurroundings(host="here", cores=(0, 1), library="any", weights_in="the mapped file")
    return surroundings(MANIFEST, [rank, rank])


def test_json(results: list[Result], around: dict[str, Any]) -> None:
    data = json.loads(json.dumps({**around, "results": [as_data(result, "int8") for result in results]}))
    assert data["threads"] == 4 and data["machine"]["cpu"] and data["versions"]["vamc"] and data["date"]
    prefill, decode = data["results"]
    assert prefill["roof"] == "int8" and decode["roof"] == "read"
    assert prefill["linear_multiply_adds"] and prefill["attention_multiply_adds"]
    assert len(decode["seconds"]) == decode["repeat"] == 3
    assert decode["profile"]["ops"][0]["name"] == "linear_4x4"


def test_csv_has_a_line_for_each_case_with_everything_on_it(
    results: list[Result], around: dict[str, Any], tmp_path: Path
) -> None:
    write_csv(tmp_path / "out.csv", around, results, "int8")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        prefill, decode = csv.DictReader(file)
    for line in (prefill, decode):
        assert line["machine.cpu"] and line["versions.apache-tvm-ffi"] and line["threads"] == "4" and line["date"]
        assert line["cores"] == "[0,1] [0,1]"
    assert (prefill["phase"], prefill["context"], decode["batch"]) == ("prefill", "20", "2")
    assert float(prefill["peak_multiply_adds_per_second.int8"]) == 8e9
    assert decode["peak_multiply_adds_per_second.int8"] == "" and prefill["read_bytes_per_second"] == ""
    assert not any("profile" in name for name in prefill)


def test_csv_that_cannot_be_written(results: list[Result], around: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_csv(tmp_path / "nowhere" / "out.csv", around, results, "int8")


def shown(table: object) -> str:
    console = Console(width=140, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_table_of_cases(results: list[Result]) -> None:
    text = shown(case_table(results, "int8"))
    assert "prefill 20" in text and "decode 2 x 16" in text
    assert "int8 16.0 GOP/s" in text and "0.00200 MB at" in text


def test_table_of_operations() -> None:
    lines = shown(op_table(PROFILE)).splitlines()
    assert "linear_4x4" in lines[1] and "66.7 %" in lines[1] and "2.00 GB/s" in lines[1]
    assert "1 others" in lines[2]
    assert "between operations" in lines[3] and "33.2 %" in lines[3]


def test_heading(around: dict[str, Any]) -> None:
    text = "\n".join(heading(around))
    for part in ("int8_per_channel", "4 threads", "the mapped file", around["date"], around["machine"]["cpu"]):
        assert part in text
