"""From the ranks' common graph to one shared library per CPU."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vamc_compiler.intermediates import Intermediates
from vamc_compiler.kernels.amx_products import amx_products
from vamc_compiler.kernels.roof import roof_functions
from vamc_compiler.link import link_library
from vamc_compiler.relax_stage.pipeline import build, run_passes
from vamc_compiler.relax_stage.targets import CpuTarget
from vamc_runtime.manifest import Library

FOLDER = "lib"


def build_library(
    module: Any, target: CpuTarget, runstream: Path, linker: Sequence[str], intermediates: Intermediates
) -> Library:
    """Lower the imported module for one CPU, compile and link it into `runstream`."""

    def dump(name: str, lowered: Any) -> None:
        intermediates.module(f"{target.mcpu}_{name}", lowered)

    tvm_target = target.tvm_target()
    lowered = run_passes(module, tvm_target, dump)
    requires = frozenset(target.requires)
    for name, function in (roof_functions(requires) | amx_products(requires)).items():
        lowered[name] = function
    executable = build(lowered, tvm_target)
    file = f"{FOLDER}/model.{target.mcpu}.so"
    (runstream / FOLDER).mkdir(exist_ok=True)
    link_library(executable, runstream / file, linker)
    return Library(file=file, mcpu=target.mcpu, machine=platform.machine(), requires=target.requires)
