"""The certificate of a build: off, skipped, failed, passed; and what is published then."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from damaged_files import copied, damage_weight

from vamc_compiler import compile as compile_module
from vamc_compiler.compile import Built, CompileRequest, compile_model
from vamc_compiler.config import load_config
from vamc_compiler.config.schema import BudgetConfig, VerifyConfig
from vamc_compiler.package import add_certificate
from vamc_compiler.stages import SilentReporter, Stages
from vamc_compiler.verify import verification
from vamc_compiler.verify.certify import GOLDEN_TOKENS, VerificationFailedError, certify
from vamc_compiler.verify.faults import EXCLUDED, LEFT_OPEN
from vamc_compiler.verify.result import BudgetLine, PairResult
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.verification import budget_of
from vamc_runtime import cli, runstream
from vamc_runtime.certificate import read_certificate
from vamc_runtime.errors import UserError
from vamc_runtime.manifest import hash_file, read_manifest
from vamc_runtime.runstream import check_hashes, open_runstream

PASSED = PairResult(
    before="checkpoint",
    after="weights, 2 ranks",
    check="weights",
    budgets=(BudgetLine(name="tensors that differ", value=0, limit=0),),
)
IMPOSSIBLE = BudgetConfig(mean_kl=0.0)


class Listener(SilentReporter):
    """Keeps warnings and stages."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.stages: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def begin(self, stage: str) -> None:
        self.stages.append(stage)


def with_verify(subject: Subject, **changes: object) -> Subject:
    settings: VerifyConfig = replace(subject.config.verify, **changes)  # type: ignore[arg-type]
    return replace(subject, config=replace(subject.config, verify=settings))


def refuse(*arguments: object, **options: object) -> None:
    raise UserError("no library of libraries/ runs on this CPU")


def test_off(compiled: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "verify", lambda *_: pytest.fail("verified"))
    certified = certify(with_verify(compiled, when="off"), Stages(SilentReporter()), trust_checkpoint_code=False)
    assert certified.report is None
    certificate = certified.certificate
    assert (certificate.status, certificate.reason) == ("off", "verify.when is off")
    assert (certificate.figures, certificate.golden, certificate.num_tokens) == ((), None, 0)
    assert certificate.checkpoint_digest == compiled.manifest.checkpoint.digest


def test_only_the_weights_are_compared_where_the_cpu_cannot_run_it(
    compiled: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runstream, "choose_library", refuse)
    listener = Listener()
    certificate = certify(compiled, Stages(listener), trust_checkpoint_code=False).certificate
    assert certificate.status == "skipped" and certificate.golden is None
    assert "cannot run what was compiled" in certificate.reason
    assert listener.warnings == [f"the runstream is not verified, except for its weights: {certificate.reason}"]
    assert [(figure.name, figure.value) for figure in certificate.figures] == [("tensors that differ", 0)]
    assert certificate.excludes == (EXCLUDED["weights"],) and certificate.leaves_open == ()


def flip_a_bit(values: npt.NDArray[Any]) -> None:
    values.view(np.uint8).reshape(-1)[0] ^= 1


@pytest.mark.parametrize("runs_here", [True, False])
def test_a_weight_that_is_not_the_checkpoints(
    compiled: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runs_here: bool
) -> None:
    """One bit of one number, far below what the other comparisons can see: a build is refused for it all the same."""
    if not runs_here:
        monkeypatch.setattr(runstream, "choose_library", refuse)
    damaged = copied(compiled, tmp_path)
    name = next(name for name in compiled.manifest.parameters if name.endswith("norm.weight"))

    def next_number(values: npt.NDArray[Any]) -> None:
        values.reshape(-1)[0] = np.nextafter(values.reshape(-1)[0], values.dtype.type(2))

    damage_weight(damaged.runstream, name, next_number)
    with pytest.raises(VerificationFailedError) as caught:
        certify(damaged, Stages(SilentReporter()), trust_checkpoint_code=False)
    (failed,) = (pair for pair in caught.value.report.pairs if not pair.passed)
    assert failed.check == "weights" and failed.location is not None and failed.location.op == name


def test_the_tolerance_of_the_self_test_is_that_of_the_kernels(compiled: Subject) -> None:
    """What is refused on another CPU depends on what kernels compute in, not on what weights are stored as."""

    def tolerance(*overrides: str) -> float:
        config = load_config(compiled.config.source_path, overrides)
        return budget_of(config).golden_tolerance

    fp16, bf16 = tolerance(), tolerance("backend.dtype=bf16")
    assert fp16 < bf16
    assert tolerance("backend.compile.prefill_precision=bf16") == bf16
    int8 = tolerance("backend.dtype=int8", "frontend.quantize={type: int8_per_channel}")
    prefill = tolerance(
        "backend.dtype=int8",
        "frontend.quantize={type: int8_per_channel}",
        "backend.compile.prefill_precision=bf16",
    )
    assert int8 == prefill, "it has no effect there"
    certificate = certify(compiled, Stages(SilentReporter()), trust_checkpoint_code=False).certificate
    assert certificate.golden is not None and certificate.golden.tolerance == fp16


def test_skipped_without_mpi(compiled: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from vamc_runtime.ranks import remote

    monkeypatch.setattr(remote, "find_mpiexec", refuse)
    two = replace(compiled, graphs=compiled.graphs * 2)
    monkeypatch.setattr(verification, "compare_weights", lambda *_: PASSED)  # there is one rank's file
    assert certify(two, Stages(SilentReporter()), trust_checkpoint_code=False).certificate.status == "skipped"


def test_failed(compiled: Subject) -> None:
    listener = Listener()
    with pytest.raises(VerificationFailedError) as caught:
        certify(with_verify(compiled, budget=IMPOSSIBLE), Stages(listener), trust_checkpoint_code=False)
    assert not caught.value.report.passed
    assert caught.value.report.first_failure is not None
    assert caught.value.report.name in str(caught.value)
    assert listener.stages == ["verify"], "its parts are not shown one by one"


def test_passed(compiled: Subject, tmp_path: Path) -> None:
    listener = Listener()
    certified = certify(compiled, Stages(listener), trust_checkpoint_code=False)
    assert listener.stages == ["verify"]
    certificate, report = certified.certificate, certified.report
    assert report is not None and report.passed
    assert (certificate.status, certificate.reason) == ("passed", "")
    assert certificate.reference.startswith("transformers")
    assert certificate.num_tokens == report.tokens.num_tokens == 48
    assert certificate.token_digest == report.tokens.digest
    assert "no tokenizer" in certificate.tokens
    assert len(certificate.figures) == sum(len(pair.budgets) for pair in report.pairs)
    assert certificate.excludes == tuple(EXCLUDED.values()) and certificate.leaves_open == tuple(LEFT_OPEN.values())
    assert certificate.library == compiled.manifest.libraries[0].mcpu
    golden = certificate.golden
    assert golden is not None and len(golden.token_ids) == GOLDEN_TOKENS
    assert all(np.exp(row).sum() <= 1 + 1e-6 for row in golden.log_probabilities)

    folder = tmp_path / "runstream"
    shutil.copytree(compiled.runstream, folder)
    written = add_certificate(certificate, folder, compiled.manifest)
    assert read_manifest(folder) == written
    assert written.files["numerics.json"].sha256 == hash_file(folder / "numerics.json")
    assert list(written.files) == sorted(written.files)
    assert read_certificate(open_runstream(folder)) == certificate
    check_hashes(open_runstream(folder), everything=True)


@pytest.fixture
def stand_in(compiled: Subject, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """Building copies what was built before."""

    def copy(request: CompileRequest, inputs: object, folder: Path, stages: Stages) -> Built:
        shutil.copytree(compiled.runstream, folder, dirs_exist_ok=True)
        return Built(folder, compiled.manifest, compiled.graphs)

    monkeypatch.setattr(compile_module, "build_runstream", copy)
    return compiled


def test_a_certified_build_is_published(stand_in: Subject, tmp_path: Path) -> None:
    config = replace(stand_in.config, workspace=replace(stand_in.config.workspace, path=tmp_path))
    result = compile_model(CompileRequest(config=config))
    assert result.path == tmp_path / "tiny" and result.report is not None
    certificate = read_certificate(open_runstream(result.path))
    assert certificate is not None and certificate.status == "passed"
    assert "numerics.json" in read_manifest(result.path).files
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_failed_build_takes_no_place(stand_in: Subject, tmp_path: Path) -> None:
    """Not even that of an older one."""
    config = replace(
        stand_in.config,
        workspace=replace(stand_in.config.workspace, path=tmp_path),
        verify=replace(stand_in.config.verify, budget=IMPOSSIBLE),
    )
    shutil.copytree(stand_in.runstream, tmp_path / "tiny")
    before = (tmp_path / "tiny" / "manifest.json").read_bytes()
    with pytest.raises(VerificationFailedError):
        compile_model(CompileRequest(config=config))
    assert (tmp_path / "tiny" / "manifest.json").read_bytes() == before
    assert not (tmp_path / "tiny" / "numerics.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_exit_status_of_a_failed_build(stand_in: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--set", f"workspace.path={tmp_path / 'w'}", "--set", "verify.budget.mean_kl=0"]
    assert cli.main(["compile", str(stand_in.config.source_path), *changes]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nothing was published" in captured.err and "verify.budget" in captured.err
    assert "Traceback" not in captured.err
    assert not list((tmp_path / "w").glob("*"))
