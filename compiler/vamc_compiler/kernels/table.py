"""Which kernel lowers which op on which kind of target.

To replace a kernel, write a file beside this one and change its row. A kernel is an object with `emit`, called with
the BlockBuilder, the op's inputs and keyword attributes, and `packing`, the layout it wants its weight in.
"""

from __future__ import annotations

from typing import Any, Protocol

from vamc_compiler.kernels.linear_panel import LINEAR_FLOAT16, LINEAR_INT8_PER_CHANNEL
from vamc_compiler.kernels.paged_attention import PAGED_ATTENTION
from vamc_compiler.packing import PanelPacking


class Kernel(Protocol):
    """What the table holds."""

    @property
    def packing(self) -> PanelPacking | None:
        """Layout of the weight input; None when the op has no weight."""

    def emit(self, builder: Any, *inputs: Any, **attributes: Any) -> Any:
        """Add the kernel's function to the module and a call of it; returns the result's expression."""


_TABLE: dict[tuple[str, str], Kernel] = {
    ("Linear", "llvm"): LINEAR_FLOAT16,
    ("QuantizedLinearPerChannel", "llvm"): LINEAR_INT8_PER_CHANNEL,
    ("PagedAttention", "llvm"): PAGED_ATTENTION,
}


class KernelTable:
    """The kernels of one kind of target."""

    def __init__(self, target_kind: str) -> None:
        self.target_kind = target_kind

    def for_op(self, op: str) -> Kernel:
        """The kernel that lowers `op`; every op of `vamc_compiler.ops` that needs one has a row."""
        return _TABLE[op, self.target_kind]
