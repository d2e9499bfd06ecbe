"""What a `vamc` op is: one definition that the tracer, onnxruntime and the compiler all read.

Each op has its own file with three parts: an eager torch implementation (which, under export, emits the op's node
instead), an ONNX function body in standard ops so that onnxruntime runs the exported file as it is, and a lowering
to Relax. Adding an op means adding a file and naming its definition in `vamc_compiler.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
import torch

if TYPE_CHECKING:
    from vamc_compiler.kernels.emitter import Emitter

DOMAIN = "vamc"
OPSET_VERSION = 1
ONNX_OPSET_VERSION = 23

# (BlockBuilder, input expressions, node attributes, emitter of the target's kernels) -> output expression
Lowering = Callable[[Any, Sequence[Any], Mapping[str, Any], "Emitter"], Any]


@dataclass(frozen=True)
class VamcOp:
    """One op of the `vamc` domain."""

    name: str
    function_body: Callable[[onnx.NodeProto], str]
    """Text of the ONNX function for a node: ops with optional inputs or attributes differ by node."""
    lower: Lowering
    weight_input: int | None = None
    """Index of the input that the kernel wants packed; None when the op has no weight. Input 0 is then x."""
    variant_of: str | None = None
    """The op that quantizes each row of x by its own largest magnitude, when this one does so by its last input."""
    activation_bits: int | None = None
    """What kernels round x to, with one scale per row; None where x stays as it is, or the op is not linear."""
    rows_output: int | None = None
    """Index of the output that the kernel can write in the format of the linear layers that read it."""

    @property
    def kernel_name(self) -> str:
        """The name by which the kernel table knows a linear op."""
        return self.variant_of or self.name

    def function(self, node: onnx.NodeProto) -> onnx.FunctionProto:
        """The ONNX function that gives `node` its meaning in standard ops."""
        header = f'<opset_import: ["" : {ONNX_OPSET_VERSION}], domain: "{DOMAIN}">\n'
        return onnx.parser.parse_function(header + self.function_body(node))


def exporting() -> bool:
    """Whether the surrounding call is a trace for ONNX, so that an op emits its node."""
    return torch.onnx.is_in_onnx_export()


def emit_node(
    name: str,
    inputs: Sequence[torch.Tensor],
    outputs: Sequence[tuple[torch.dtype, Sequence[int | torch.SymInt]]],
    attributes: Mapping[str, int | float] | None = None,
) -> tuple[torch.Tensor, ...]:
    """Put a `vamc::name` node into the trace; `outputs` gives dtype and shape of each result."""
    return tuple(
        torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{name}",
            tuple(inputs),
            attrs=dict(attributes or {}),
            dtypes=tuple(dtype for dtype, _ in outputs),
            shapes=tuple(shape for _, shape in outputs),
            version=OPSET_VERSION,
        )
    )
