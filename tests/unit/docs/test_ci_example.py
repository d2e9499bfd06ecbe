"""The example workflow in docs/ parses, and its commands are ones that `vamc` knows."""

from __future__ import annotations

from pathlib import Path

import yaml
from documents import vamc_arguments

from vamc_runtime.cli import build_parser

DOCS = Path(__file__).resolve().parents[3] / "docs"
WORKFLOW = yaml.safe_load((DOCS / "ci-example.yml").read_text(encoding="utf-8"))
STEPS = WORKFLOW["jobs"]["verify"]["steps"]


def commands(text: str) -> list[list[str]]:
    """The `vamc` commands in shell text, each from its name on."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := vamc_arguments(line)) is not None]


def test_what_a_runner_needs_is_there() -> None:
    assert WORKFLOW[True] == ["push", "workflow_dispatch"]  # YAML 1.1 reads the key `on` so
    assert all(("uses" in step) != ("run" in step) for step in STEPS)
    assert all(step["uses"].count("@v") == 1 for step in STEPS if "uses" in step)


def test_compile_and_verify_have_no_network() -> None:
    steps = [step["run"] for step in STEPS if commands(step.get("run", ""))]
    assert [commands(text)[0][0] for text in steps] == ["compile", "verify"]
    assert all(text.startswith("sudo unshare --net -- ") for text in steps)


def test_what_is_kept_is_what_the_commands_write() -> None:
    compile_, verify = (build_parser().parse_args(words) for step in STEPS for words in commands(step.get("run", "")))
    kept = {step["with"]["name"]: step["with"]["path"] for step in STEPS if "upload" in step.get("uses", "")}
    assert Path(kept["numerics"]) == verify.report
    assert Path(kept["runstream"]) == verify.target
    assert compile_.overrides == [f"workspace.path={verify.target.parent}", f"name={verify.target.name}"]
