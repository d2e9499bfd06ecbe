"""`vamc inspect` says what was verified, where, and whether this machine tests itself; `--json` has all of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import fake_runstream as fake
import pytest
from fake_certificate import CPU, add_certificate, fake_golden, make_certificate

from vamc_runtime import UserError, passed_checks, self_test
from vamc_runtime.certificate import Figure
from vamc_runtime.inspect import describe, describe_numerics, inspect_command
from vamc_runtime.manifest import Manifest
from vamc_runtime.runstream import open_runstream

GOLDEN = fake_golden((1, 2, 3), 400)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(self_test, "cpu_model", lambda: "Other CPU 1")


def build(path: Path, **changes: Any) -> Manifest:
    manifest = fake.build(path)
    add_certificate(path, manifest, make_certificate(**changes))
    return open_runstream(path).manifest


def line_of(path: Path, label: str) -> str:
    return dict(describe(open_runstream(path)))[label]


def as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert inspect_command(argparse.Namespace(runstream=path, verify_hash=False, json=True)) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


class TestNumerics:
    def test_passed(self) -> None:
        lines = describe_numerics(make_certificate())
        assert len(lines) <= 4
        assert lines[0] == (
            f"verified 2026-11-21 on {CPU} (library any): passed, against transformers LlamaForCausalLM"
        )
        assert lines[1] == "256 tokens, the built-in sample"
        assert lines[2] == "mean KL 4.8e-07 (at most 1e-05), same top token 1 (at least 0.98)"
        assert lines[3] == "each the nearest to its limit; 3 figures over 2 comparisons"

    def test_of_each_kind_the_nearest_to_its_limit(self) -> None:
        figures = make_certificate().figures
        assert describe_numerics(make_certificate(figures=figures[::-1]))[2] == (
            "same top token 1 (at least 0.98), mean KL 4.8e-07 (at most 1e-05)"
        )

    def test_many_kinds_of_figures(self) -> None:
        figures = [Figure(pair="a -> b", name=f"n{i}", value=i, limit=10, at_least=False) for i in range(9)]
        lines = describe_numerics(make_certificate(figures=tuple(figures)))
        assert lines[2] == "n0 0 (at most 10), n1 1 (at most 10), n2 2 (at most 10), n3 3 (at most 10)"

    def test_without_a_reference_or_library(self) -> None:
        lines = describe_numerics(make_certificate(reference="", library="", figures=()))
        assert lines == [f"verified 2026-11-21 on {CPU}: passed", "256 tokens, the built-in sample"]

    def test_not_verified(self) -> None:
        for status in ("off", "skipped"):
            lines = describe_numerics(make_certificate(status=status, reason="verify.when is off", figures=()))
            assert lines == ["not verified: verify.when is off"]

    def test_what_is_excluded_and_what_is_left_open(self, tmp_path: Path) -> None:
        build(tmp_path / "r", golden=GOLDEN)
        lines = describe(open_runstream(tmp_path / "r"))
        place = lines.index(("excluded", "a wrong number"))
        assert lines[place + 1 : place + 3] == [("", "another model"), ("left open", "something small")]
        build(tmp_path / "off", status="off", reason="verify.when is off", excludes=(), leaves_open=())
        assert not {"excluded", "left open"} & dict(describe(open_runstream(tmp_path / "off"))).keys()

    def test_older_runstream(self) -> None:
        assert describe_numerics(None) == ["no certificate (compiled by an older version)"]


class TestSelfTest:
    def test_due_then_passed_before(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        build(tmp_path / "r", golden=GOLDEN)
        assert line_of(tmp_path / "r", "self-test").startswith("due on this machine")
        monkeypatch.setattr(passed_checks, "has_passed", lambda kind, key: True)
        assert line_of(tmp_path / "r", "self-test") == "passed before on this machine"

    def test_not_needed(self, tmp_path: Path) -> None:
        build(tmp_path / "r", golden=GOLDEN, cpu="Other CPU 1")
        assert line_of(tmp_path / "r", "self-test").startswith("not needed")

    def test_nothing_to_compare_with(self, tmp_path: Path) -> None:
        fake.build(tmp_path / "old")
        build(tmp_path / "off", status="off", reason="verify.when is off")
        for name in ("old", "off"):
            assert line_of(tmp_path / name, "self-test") == "none: there is nothing to compare with"

    def test_a_machine_it_does_not_run_on(self, tmp_path: Path) -> None:
        manifest = fake.build(tmp_path, libraries=(fake.library("ultra", [], machine="sparc64"),))
        add_certificate(tmp_path, manifest, make_certificate(golden=GOLDEN))
        assert line_of(tmp_path, "self-test") == "none: the runstream does not run on this machine"
        assert line_of(tmp_path, "numerics").startswith("verified 2026-11-21")


class TestJson:
    def test_certificate_beside_the_manifest(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        manifest = build(tmp_path, golden=GOLDEN)
        content = as_json(tmp_path, capsys)
        assert content.pop("numerics") == json.loads(make_certificate(golden=GOLDEN).to_json())
        assert content == json.loads(manifest.to_json())

    def test_older_runstream(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        fake.build(tmp_path)
        assert as_json(tmp_path, capsys)["numerics"] is None


def test_text_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path, golden=GOLDEN)
    assert inspect_command(argparse.Namespace(runstream=tmp_path, verify_hash=True, json=False)) == 0
    output = capsys.readouterr().out
    assert "numerics" in output and "verified 2026-11-21" in output and "due on this machine" in output


@pytest.mark.parametrize("json_wanted", [False, True])
def test_damaged(tmp_path: Path, json_wanted: bool) -> None:
    manifest = build(tmp_path)
    (tmp_path / "numerics.json").write_text('{"schema_version": 99}')
    fake.write_manifest(tmp_path, manifest)
    with pytest.raises(UserError, match="schema version 99"):
        inspect_command(argparse.Namespace(runstream=tmp_path, verify_hash=False, json=json_wanted))
