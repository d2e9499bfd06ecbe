"""What the test folders share: demo models, compiled once per session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fixture_types import BuildDemo, CompileDemo
from golden.cases import Case, build_case

if TYPE_CHECKING:
    from vamc_compiler.verify.subject import Subject


@pytest.fixture(scope="session")
def build_demo(tmp_path_factory: pytest.TempPathFactory) -> BuildDemo:
    """Build a demo model: `build_demo(model, precision, tp, mcpu)`; the same arguments give the same build again.

    Every runstream keeps its plain weights and dumps, for the tests that look at them. None is verified: that is what
    tests do.
    """
    workspace = tmp_path_factory.mktemp("runstreams")
    built: dict[tuple[Case, tuple[str, ...]], Subject] = {}

    def build(model: str, precision: str = "fp16", tp: int = 1, mcpu: tuple[str, ...] = ()) -> Subject:
        case = Case(model, precision, tp)
        if (case, mcpu) not in built:
            name = "-".join([model, *precision.split(), f"tp{tp}", *mcpu])
            built[case, mcpu] = build_case(case, workspace / name, mcpu, keep_intermediates=True)
        return built[case, mcpu]

    return build


@pytest.fixture(scope="session")
def compile_demo(build_demo: BuildDemo) -> CompileDemo:
    """The runstream of `build_demo(...)`."""

    def path(*arguments: object, **options: object) -> Path:
        runstream: Path = build_demo(*arguments, **options).runstream
        return runstream

    return path


@pytest.fixture(scope="session")
def demo_runstream(compile_demo: CompileDemo) -> Path:
    """A small runstream of one rank."""
    return compile_demo("llama-mini")
