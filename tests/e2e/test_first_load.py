"""A runstream that was verified on another CPU tests itself on this one, on one rank and on several, once."""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from e2e_tools import VAMC, assert_user_error, run_process
from fixture_types import CompileDemo, CopyRunstream, Vamc

from vamc_runtime import LLM, UserError
from vamc_runtime.certificate import SCHEMA_VERSION, Certificate, golden_of
from vamc_runtime.machine import cpu_model
from vamc_runtime.manifest import FileRecord, hash_file, read_manifest

MPIEXEC = Path(sys.executable).parent / "mpiexec"
OTHER_CPU = "Zilog Z80"
TOKENS = tuple(1 + 17 * i % 1000 for i in range(64))
RUN = ("--prompt", "The", "--max-new-tokens", "4", "--temperature", "0")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vamc" / "self_tests.json"


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Put it in, as the compiler does."""
    (path / "numerics.json").write_text(certificate.to_json(), encoding="utf-8")
    manifest = read_manifest(path)
    record = FileRecord(num_bytes=(path / "numerics.json").stat().st_size, sha256=hash_file(path / "numerics.json"))
    manifest = dataclasses.replace(manifest, files={**manifest.files, "numerics.json": record})
    (path / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")


def certify(path: Path) -> Certificate:
    """Give a runstream the certificate of another CPU, with what it computes here."""
    (path / "numerics.json").unlink(missing_ok=True)
    manifest = read_manifest(path)
    files = {name: record for name, record in manifest.files.items() if name != "numerics.json"}
    (path / "manifest.json").write_text(dataclasses.replace(manifest, files=files).to_json(), encoding="utf-8")
    with LLM(path) as llm:
        golden = golden_of(TOKENS, llm.logits(TOKENS), 1e-3, "compiled, one rank")
    certificate = Certificate(
        schema_version=SCHEMA_VERSION,
        status="passed",
        reason="",
        reference="a test",
        tokens="made up",
        num_tokens=len(TOKENS),
        token_digest="",
        figures=(),
        excludes=(),
        leaves_open=(),
        checkpoint_digest=manifest.checkpoint.digest,
        toolchain={},
        cpu=OTHER_CPU,
        library=manifest.libraries[0].mcpu,
        date="2026-11-21T00:00:00+00:00",
        golden=golden,
    )
    write_certificate(path, certificate)
    return certificate


def spoil(path: Path, certificate: Certificate) -> None:
    """Another CPU would have computed something else."""
    golden = certificate.golden
    assert golden is not None
    rows = tuple(tuple(value - 0.1 for value in row) for row in golden.log_probabilities)
    write_certificate(
        path, dataclasses.replace(certificate, golden=dataclasses.replace(golden, log_probabilities=rows))
    )


def test_passes_and_is_remembered(vamc: Vamc, demo_runstream: Path, copy_runstream: CopyRunstream, cache: Path) -> None:
    path = copy_runstream(demo_runstream)
    certify(path)
    assert "due on this machine" in vamc("inspect", path).output
    for _ in range(2):
        outcome = vamc("run", path, *RUN)
        assert outcome.status == 0, outcome.errors
    assert len(json.loads(cache.read_text())["passed"]) == 1
    assert "passed before on this machine" in vamc("inspect", path).output


def test_bench_tests_itself_too(vamc: Vamc, demo_runstream: Path, copy_runstream: CopyRunstream, cache: Path) -> None:
    path = copy_runstream(demo_runstream)
    certificate = certify(path)
    case = ("--prefill", 16, "--decode-batch", "", "--repeat", 1)
    assert vamc("bench", path, *case).status == 0
    assert cache.is_file()
    spoil(path, certificate)
    assert_user_error(vamc("bench", path, *case), "the self-test failed", OTHER_CPU)
    assert vamc("bench", path, *case, "--no-self-test").status == 0


def test_refuses_what_differs(vamc: Vamc, demo_runstream: Path, copy_runstream: CopyRunstream, cache: Path) -> None:
    path = copy_runstream(demo_runstream)
    spoil(path, certify(path))
    for _ in range(2):
        outcome = vamc("run", path, *RUN)
        assert_user_error(outcome, "the self-test failed", OTHER_CPU, cpu_model(), "at most 0.001", "--no-self-test")
        assert outcome.output == ""
    assert not cache.exists()
    with pytest.raises(UserError, match=r"differ by 0\.1 on average"), LLM(path):
        pytest.fail("opened")


def test_skipping_is_logged_in_one_line(demo_runstream: Path, copy_runstream: CopyRunstream) -> None:
    path = copy_runstream(demo_runstream)
    spoil(path, certify(path))
    # A process of its own: pytest takes the log of this one.
    outcome = run_process(VAMC, "run", path, *RUN, "--no-self-test")
    assert outcome.status == 0 and outcome.output
    (line,) = outcome.errors.splitlines()
    assert "self-test skipped" in line and OTHER_CPU in line and cpu_model() in line


def test_damaged_certificate(vamc: Vamc, demo_runstream: Path, copy_runstream: CopyRunstream) -> None:
    path = copy_runstream(demo_runstream)
    certify(path)
    text = (path / "numerics.json").read_text()
    (path / "numerics.json").write_text(text.replace("Zilog", "Zylog"))
    for command in (("inspect", path), ("run", path, *RUN)):
        assert_user_error(vamc(*command), "numerics.json is damaged")
    (path / "numerics.json").unlink()
    assert_user_error(vamc("run", path, *RUN), "numerics.json is missing")


def test_several_ranks(vamc: Vamc, compile_demo: CompileDemo, copy_runstream: CopyRunstream, cache: Path) -> None:
    path = copy_runstream(compile_demo("baichuan2-13b-mini", "int8", 2))
    certificate = certify(path)
    under_mpi = (MPIEXEC, "-n", 2, VAMC, "run", path, *RUN)
    for run in (partial(vamc, "run", path, *RUN), partial(run_process, *under_mpi)):
        cache.unlink(missing_ok=True)
        outcome = run()
        assert outcome.status == 0, outcome.errors
        assert len(json.loads(cache.read_text())["passed"]) == 1
    spoil(path, certificate)
    for outcome in (vamc("run", path, *RUN), run_process(*under_mpi)):
        assert_user_error(outcome, "the self-test failed", OTHER_CPU, cpu_model())
    outcome = run_process(*under_mpi, "--no-self-test")
    assert outcome.status == 0 and outcome.errors.count("self-test skipped") == 1


def test_steps_of_the_test_agree_with_one_step(demo_runstream: Path) -> None:
    """The tolerance above means something: few tokens at a time differ by far less from all at once."""
    with LLM(demo_runstream, self_test=False) as llm:
        whole, parts = llm.logits(TOKENS), llm.logits(TOKENS, chunk_tokens=5)
    assert np.abs(whole).max() > 0 and np.abs(whole - parts).mean() < 1e-4
