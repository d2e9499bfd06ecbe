"""`vamc bench` as a user types it: figures beside what the machine can do, and refusals one can act on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from e2e_tools import VAMC, assert_user_error, run_process
from fixture_types import CompileDemo, Vamc

SHORT = ("--prefill", "16,300", "--decode-batch", "1,3", "--context", "33", "--repeat", "2")
CASES = [("prefill", 1, 16), ("prefill", 1, 300), ("decode", 1, 33), ("decode", 3, 33)]


def test_json_and_csv(vamc: Vamc, demo_runstream: Path, tmp_path: Path) -> None:
    outcome = vamc("bench", demo_runstream, *SHORT, "--ops", "--json", "--csv", tmp_path / "out.csv")
    assert outcome.status == 0, outcome.errors
    data = json.loads(outcome.output)
    assert data["threads"] >= 1 and data["machine"]["cpu"] and data["versions"]["compiled_with_apache-tvm"]
    results = data["results"]
    assert [(row["phase"], row["batch"], row["context"]) for row in results] == CASES
    for row in results:
        assert row["seconds_min"] <= row["seconds_median"] <= row["seconds_max"]
        assert row["share_of_roof"] > 0
        ops = {op["name"]: op for op in row["profile"]["ops"]}
        assert any(op["weight_bytes"] for op in ops.values())
    weights = (demo_runstream / "rank_0" / "params.safetensors").stat().st_size
    decode = results[2]
    assert 0.3 * weights < decode["weight_bytes"] < weights, "all but the embedding"
    assert decode["read_bytes"] == pytest.approx(decode["weight_bytes"] + decode["kv_bytes"], rel=0.2)
    assert {"fp32", "int8"} <= results[0]["peak_multiply_adds_per_second"].keys()
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        assert [(row["phase"], int(row["batch"]), int(row["context"])) for row in csv.DictReader(file)] == CASES


def test_tables_for_people(vamc: Vamc, demo_runstream: Path) -> None:
    outcome = vamc("bench", demo_runstream, *SHORT, "--ops", "--threads", 1)
    assert outcome.status == 0, outcome.errors
    for part in (
        "1 thread,",
        "prefill 300",
        "decode 3 x 33",
        "GOP/s",
        "GB/s",
        "operations of rank 0",
        "paged_attention",
    ):
        assert part in outcome.output


def test_two_ranks(compile_demo: CompileDemo) -> None:
    outcome = run_process(VAMC, "bench", compile_demo("llama-mini", tp=2), *SHORT, "--ops", "--json")
    assert outcome.status == 0, outcome.errors
    data = json.loads(outcome.output)
    assert data["runstream"]["ranks"] == 2 and len(data["cores"]) == 2
    assert "vamc.all_reduce" in {op["name"] for op in data["results"][2]["profile"]["ops"]}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--prefill", "2000"], ["--prefill 2000", "at most 1024", "compile with larger lengths"]),
        (["--decode-batch", "257"], ["--decode-batch 257", "at most 256"]),
        (["--repeat", "0"], ["--repeat 0"]),
        (["--threads", "1000"], ["1000 threads on", "at most"]),
    ],
)
def test_beyond_what_there_is(vamc: Vamc, demo_runstream: Path, arguments: list[str], parts: list[str]) -> None:
    assert_user_error(vamc("bench", demo_runstream, *arguments), *parts)


def test_not_a_number(vamc: Vamc, demo_runstream: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        vamc("bench", demo_runstream, "--prefill", "12,a lot")
    assert caught.value.code == 2 and "whole numbers of at least 1" in capfd.readouterr().err


def test_runstream_of_an_earlier_version(vamc: Vamc, demo_runstream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vamc_runtime.bench import roof

    monkeypatch.setattr(roof, "PEAK_PREFIX", "vamc_of_a_later_version_")
    assert_user_error(vamc("bench", demo_runstream), "have no function vamc_of_a_later_version_fp32", "compile the")
