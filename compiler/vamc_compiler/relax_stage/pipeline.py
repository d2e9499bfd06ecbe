"""The order of passes from the imported module to TIR that LLVM compiles: one flat list.

TVM's own CPU pipeline does no fusion and materialises float copies of int8 weights; this one fuses elementwise
chains, plans memory for the largest step and leaves the kernels of `vamc_compiler.kernels` as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax
from tvm.relax import transform

OnPass = Callable[[str, Any], None]
"""Called after each pass with its name and the module, to dump or time it."""


def passes() -> list[tuple[str, Any]]:
    """Name and pass, in order."""
    return [
        # Normal form
        ("canonicalize_bindings", transform.CanonicalizeBindings()),
        ("eliminate_common_subexpressions", transform.EliminateCommonSubexpr()),
        ("eliminate_dead_code", transform.DeadCodeElimination()),
        # Relax operators to TIR, neighbours fused
        ("legalize_ops", transform.LegalizeOps()),
        ("annotate_tir_patterns", transform.AnnotateTIROpPattern()),
        ("fold_constants", transform.FoldConstant()),
        ("fuse_ops", transform.FuseOps()),
        ("fuse_tir", transform.FuseTIR()),
        ("eliminate_unused_functions", transform.DeadCodeElimination()),
        # Memory
        ("rewrite_reshapes", transform.RewriteDataflowReshape()),
        ("leave_dataflow", transform.ToNonDataflow()),
        ("remove_purity_checks", transform.RemovePurityChecking()),
        ("calls_to_destination_passing", transform.CallTIRRewrite()),
        ("plan_memory", transform.StaticPlanBlockMemory()),
        # VM
        ("lower_alloc", transform.LowerAllocTensor()),
        ("kill_after_last_use", transform.KillAfterLastUse()),
        ("lower_builtins", transform.LowerRuntimeBuiltin()),
        ("compute_prim_values", transform.ComputePrimValue()),
        ("lower_shapes", transform.VMShapeLower()),
        ("attach_symbols", transform.AttachGlobalSymbol()),
    ]


class PassFailedError(RuntimeError):
    """A pass failed: names it, chained to TVM's own error."""


def run_passes(module: Any, target: Any, on_pass: OnPass | None = None) -> Any:
    """Run every pass under `target`."""
    with target:
        for name, function in passes():
            try:
                module = function(module)
            except Exception as error:
                raise PassFailedError(f"the Relax pass {name} failed") from error
            if on_pass is not None:
                on_pass(name, module)
    return module


def build(module: Any, target: Any) -> Any:
    """Compile lowered TIR and the VM's bytecode to an executable that can be exported."""
    # Storage rewriting would let two buffers of a kernel share memory, and pass both to a part that is compiled as a
    # function of its own (kernels.tir.own_function), whose arguments are promised to be distinct.
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
        return relax.build(module, target, relax_pipeline=None, exec_mode="bytecode")
