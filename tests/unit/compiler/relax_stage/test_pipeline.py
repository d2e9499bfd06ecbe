"""The pass list: names, order of calls, and what a failure says."""

from __future__ import annotations

from typing import Any

import pytest
from tvm import relax, tirx

from vamc_compiler.graph import RankGraph
from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.table import KernelTable
from vamc_compiler.relax_stage import pipeline
from vamc_compiler.relax_stage.importer import import_step
from vamc_compiler.relax_stage.pipeline import PassFailedError, passes, run_passes
from vamc_compiler.relax_stage.targets import host_target


def lower(graph: RankGraph, on_pass: pipeline.OnPass | None = None) -> Any:
    step = import_step(graph.model(), graph.parameters, KernelTable(InstructionSet()), max_step_tokens=32)
    return run_passes(step.module, host_target().tvm_target(), on_pass)


def functions(module: Any, kind: type) -> list[str]:
    return sorted(str(variable.name_hint) for variable, f in module.functions.items() if isinstance(f, kind))


def test_names_are_unique() -> None:
    names = [name for name, _ in passes()]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and name.isidentifier() for name in names), "they name dumps"


def test_depth_adds_no_kernels(two_layers: RankGraph, four_layers: RankGraph) -> None:
    seen: list[str] = []
    two = lower(two_layers, lambda name, module: seen.append(name))
    four = lower(four_layers)
    assert seen == [name for name, _ in passes()]
    kernels = functions(two, tirx.PrimFunc)
    assert functions(four, tirx.PrimFunc) == kernels
    assert sum(name.startswith("linear_float16") for name in kernels) == 6  # q, k and v, gate and up, down, o, head
    assert sum(name.startswith("paged_attention") for name in kernels) == 1
    assert functions(two, relax.Function) == ["step"]


def test_a_failing_pass_names_itself(monkeypatch: pytest.MonkeyPatch, two_layers: RankGraph) -> None:
    cause = ValueError("Check failed: something deep in TVM")

    def broken(module: Any) -> Any:
        raise cause

    names: list[str] = []
    first, *rest = passes()
    monkeypatch.setattr(pipeline, "passes", lambda: [first, ("fold_everything", broken), *rest])
    with pytest.raises(PassFailedError, match="the Relax pass fold_everything failed") as caught:
        lower(two_layers, lambda name, module: names.append(name))
    assert caught.value.__cause__ is cause
    assert names == [first[0]]
