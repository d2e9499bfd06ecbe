"""`vamc verify`: exit status, what goes to which stream, the report; what is compiled stands in for the build."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from vamc_compiler.config import BuildConfig
from vamc_compiler.stages import SilentReporter, Stages
from vamc_compiler.verify import build, verification
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.verification import Outcome, Request
from vamc_runtime import cli


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    status: int
    output: str
    errors: str


Verify = Callable[..., Ended]


@pytest.fixture
def verify(compiled: Subject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verify:
    """`verify("--json", ...)` of the tiny config, whose build is there already."""

    def stand_in(config: BuildConfig, folder: Path, stages: Stages, **options: Any) -> Subject:
        for warning in config.warnings:
            stages.reporter.warn(warning)
        return replace(compiled, config=config)

    def run(*arguments: object, target: Path = compiled.config.source_path) -> Ended:
        capsys.readouterr()
        status = cli.main(["verify", str(target), *map(str, arguments)])
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    monkeypatch.setattr(build, "build_subject", stand_in)
    return run


def set_budget(name: str, value: object) -> tuple[str, str]:
    return "--set", f"verify.budget.{name}={value}"


def test_within_budget(verify: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = verify("--bisect")
    assert ended.status == 0, ended.errors
    assert "pass" in ended.output and "Traceback" not in ended.errors
    for stage in ("modeling file", "exported ONNX", "simplified ONNX", "compiled", "chunked prefill", "cached decode"):
        assert stage in ended.errors and stage in " ".join(ended.output.split())
    assert "pseudo-random token ids" in " ".join(ended.output.split())
    assert "nothing to bisect" in ended.output and not list(tmp_path.iterdir())


def test_json_alone_on_standard_output(verify: Verify) -> None:
    ended = verify("--json")
    document = json.loads(ended.output)
    assert ended.status == 0 and document["passed"] is True
    assert {pair["check"] for pair in document["pairs"]} == {
        "prefill",
        "chunked prefill",
        "cached decode",
        "weights",
        "greedy tokens",
    }
    assert "{" not in ended.errors


def test_outside_budget(verify: Verify) -> None:
    ended = verify("--json", *set_budget("mean_kl", 0))
    document = json.loads(ended.output)
    assert ended.status == 1 and document["passed"] is False
    failed = [pair for pair in document["pairs"] if not pair["passed"]]
    assert failed and all("mean KL" in [line["name"] for line in pair["budgets"]] for pair in failed)
    assert "Traceback" not in ended.errors


def test_report_and_bisection(verify: Verify, tmp_path: Path) -> None:
    ended = verify("--bisect", "--report", tmp_path / "report", *set_budget("block_error", 1e-9))
    assert ended.status == 1
    assert str(tmp_path / "report" / "index.html") in ended.output
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {"index.html", "report.json", "junit.xml"}
    document = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert document["passed"] is False
    suites = ElementTree.parse(tmp_path / "report" / "junit.xml")
    assert any(True for _ in suites.iter("failure"))
    assert "smallest subgraph" in ended.output
    script = tmp_path / "report" / "bisection" / "reproduce.py"
    assert script.is_file() and str(script) in ended.output


def test_a_warning_once(verify: Verify, compiled: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model over ranks is built twice."""
    real_verify = verification.verify
    weights: frozenset[verification.Part] = frozenset(("reference", "weights"))

    def twice(config: BuildConfig, folder: Path, stages: Stages, **options: Any) -> Subject:
        for warning in (*config.warnings, "the checkpoint has no tokenizer"):
            stages.reporter.warn(warning)
        return replace(compiled, config=config, graphs=compiled.graphs * config.frontend.model_kwargs.tp)

    def short(request: Request, *rest: object) -> Outcome:
        assert request.single is not None and request.single.num_ranks == 1 and request.subject.num_ranks == 2
        return real_verify(Request(subject=request.single, parts=weights), Stages(SilentReporter()))

    monkeypatch.setattr(build, "build_subject", twice)
    monkeypatch.setattr(verification, "verify", short)
    ended = verify("--set", "frontend.model_kwargs.tp=2", "--set", "frontend.model_kwargs.model_arch=vacc")
    assert ended.status == 0, ended.errors
    assert ended.errors.count("the checkpoint has no tokenizer") == 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "verify.tokens=none"], ["verify.tokens"]),
        (["--set", "verify.budget.mean_kl=small"], ["verify.budget.mean_kl", "small"]),
        (["--set", "verify.budget.mean_kl=-1"], ["verify.budget.mean_kl"]),
        (["--set", "verify.budgets.mean_kl=1"], ["budgets", "budget"]),
    ],
)
def test_usage(verify: Verify, arguments: list[str], parts: list[str]) -> None:
    ended = verify(*arguments)
    assert ended.status == 2 and ended.output == ""
    assert "Traceback" not in ended.errors and ended.errors.count("vamc: error:") == 1
    for part in parts:
        assert part in ended.errors


def test_a_target_that_is_neither(verify: Verify, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.yaml").write_text("just words")
    for target in (tmp_path / "empty", tmp_path / "nothing", tmp_path / "text.yaml"):
        ended = verify(target=target)
        assert ended.status == 2 and str(target) in ended.errors and "Traceback" not in ended.errors
