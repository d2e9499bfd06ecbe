"""The self-test between CPU levels: right code passes in every precision, wrong code for the other level is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from code_edits import edited
from mutation import Case
from mutations_of_builds import LIBRARIES
from rank_bytes import record_again
from workshop import Workshop

from vamc_compiler.package import add_certificate
from vamc_compiler.stages import SilentReporter, Stages
from vamc_compiler.verify.certify import GOLDEN_TOKENS, certify
from vamc_compiler.verify.subject import Subject
from vamc_runtime import LLM, self_test
from vamc_runtime.errors import UserError
from vamc_runtime.machine import cpu_features

LOW, HIGH = "x86-64-v3", "znver4"
"""AVX2 with float32 sums, and AVX-512 with VNNI and bfloat16 products: the two that differ most."""
PRECISIONS = get_args(get_type_hints(Case)["precision"])
(WRONG_ROTATION,) = (mutation for mutation in LIBRARIES if mutation.name == "RoPE interleaved, kernel")

Build = Callable[[str], Subject]


def case_of(precision: str) -> Case:
    """The model on one rank."""
    return Case(model="rotary", precision=precision, num_ranks=1)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`certified(precision)`: a model for both levels, verified on the higher one."""
    workshop = Workshop(tmp_path_factory.mktemp("levels"), (LOW, HIGH))

    def build(precision: str) -> Subject:
        subject = workshop.compiled(case_of(precision), workshop.new_folder())
        if not set(subject.manifest.libraries[1].requires) <= cpu_features():
            pytest.skip(f"this CPU is not a {HIGH}")
        config = replace(subject.config, verify=replace(subject.config.verify, when="compile"))
        found = certify(replace(subject, config=config), Stages(SilentReporter()), trust_checkpoint_code=False)
        assert (found.certificate.status, found.certificate.library) == ("passed", HIGH)
        add_certificate(found.certificate, subject.runstream, subject.manifest)
        return subject

    return build


@pytest.mark.parametrize("precision", PRECISIONS)
def test_between_levels(precision: str, certified: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = certified(precision)
    broken = tmp_path / "broken"
    shutil.copytree(subject.runstream, broken)
    workshop = Workshop(tmp_path, (LOW,))
    with edited(WRONG_ROTATION.edits):
        wrong = workshop.compiled(case_of(precision), workshop.new_folder())
    shutil.copyfile(wrong.runstream / wrong.manifest.libraries[0].file, broken / f"lib/model.{LOW}.so")
    record_again(broken)

    older = frozenset(name for name in cpu_features() if not name.startswith("avx512"))
    monkeypatch.setattr("vamc_runtime.runstream.cpu_features", lambda: older)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    outcomes = []
    real = self_test.run_golden

    def run(*arguments: object, **options: object) -> self_test.Outcome:
        outcomes.append(real(*arguments, **options))  # type: ignore[arg-type]
        return outcomes[-1]

    monkeypatch.setattr(self_test, "run_golden", run)
    with LLM(subject.runstream) as llm:
        llm.logits([1, 2, 3])
    with pytest.raises(UserError, match=f"the self-test failed on .*library {LOW}"), LLM(broken):
        pytest.fail("opened")
    right, wrong_one = outcomes
    assert right.num_tokens == wrong_one.num_tokens == GOLDEN_TOKENS
