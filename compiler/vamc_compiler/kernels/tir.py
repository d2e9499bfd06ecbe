"""Writing TIR as plain Python: vectors, registers and branches over TVM's IRBuilder.

A kernel is a Python function that runs while the IR is built: Python's loops unroll, the loops of this module stay.
What is unrolled is therefore visible as an ordinary `for`, and parts of kernels are ordinary functions that share
their sizes through arguments. Written against apache-tvm 0.27.0.post1 (pinned).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tvm.script.ir_builder.tirx as ir
from tvm.script.ir_builder import IRBuilder

LANES = 16
"""Floats in a kernel's vector; LLVM splits it where the CPU's registers are narrower."""
Expr = Any
"""A TIR expression."""
Buffer = Any
"""A TIR buffer."""

serial = ir.serial
parallel = ir.parallel
select = ir.Select
smaller, larger, absolute, rsqrt = ir.min, ir.max, ir.abs, ir.rsqrt


class Kernel(NamedTuple):
    """A finished function."""

    name: str
    function: Any
    """The PrimFunc."""


@contextlib.contextmanager
def function(name: str) -> Iterator[IRBuilder]:
    """Build a private function; `builder.get()` afterwards is the PrimFunc.

    `op_pattern` 8 marks it as opaque: Relax never fuses it into another function. Outputs never alias inputs.
    """
    with IRBuilder() as builder, ir.prim_func(is_private=True, s_tir=True):
        ir.func_name(name)
        ir.func_attr({"tirx.noalias": True, "op_pattern": 8})
        # Gives the function a root block: the builder adds one only where something is allocated, and the Relax pass
        # that looks for reshapes fails on functions of one input and one output without (apache-tvm 0.27).
        ir.sblock_alloc_buffer((1,), "int32")
        yield builder


def argument(name: str, shape: Sequence[Expr | int], dtype: str) -> Buffer:
    """The next tensor argument; symbolic sizes are variables from `size`."""
    return ir.match_buffer(ir.arg(name, ir.handle()), tuple(shape), dtype)


def size() -> Expr:
    """A symbolic size, bound by the shape of the first argument that uses it."""
    return ir.int64()


def scratch(shape: Sequence[Expr | int], dtype: str) -> Buffer:
    """Memory of the thread: on its stack when small, else from the workspace pool."""
    return ir.sblock_alloc_buffer(tuple(shape), dtype)


def load(buffer: Buffer, *index: Expr | int, lanes: int = LANES) -> Expr:
    """`lanes` neighbouring elements from `index` on."""
    *outer, inner = index
    place = (*outer, ir.ramp(inner, 1, lanes) if lanes > 1 else inner)
    return buffer[place]


def store(buffer: Buffer, value: Expr, *index: Expr | int, lanes: int = LANES) -> None:
    """Write `lanes` neighbouring elements from `index` on."""
    *outer, inner = index
    ir.buffer_store(buffer, value, [*outer, ir.ramp(inner, 1, lanes) if lanes > 1 else inner])


def constant(value: float, dtype: str = "float32") -> Expr:
    """A number."""
    return getattr(ir, dtype)(value)


def splat(value: Expr | float, dtype: str = "float32", lanes: int = LANES) -> Expr:
    """A vector whose elements are all `value`."""
    if isinstance(value, (int, float)):
        value = constant(value, dtype)
    return ir.broadcast(value, lanes) if lanes > 1 else value


def cast(value: Expr, dtype: str, lanes: int = LANES) -> Expr:
    """Convert by value."""
    return ir.cast(value, f"{dtype}x{lanes}" if lanes > 1 else dtype)


def bits(value: Expr, dtype: str, lanes: int = LANES) -> Expr:
    """The same bits as another type."""
    return ir.reinterpret(f"{dtype}x{lanes}" if lanes > 1 else dtype, value)


def import_llvm(text: str) -> contextlib.AbstractContextManager[object]:
    """Link LLVM IR beside the function; entered around the part that calls it."""
    manager: contextlib.AbstractContextManager[object] = ir.attr(0, "pragma_import_llvm", text)
    return manager


def prefetch(buffer: Buffer, *index: Expr | int) -> None:
    """Bring the cache line of an element into the second cache; any address is allowed."""
    where = address(buffer, *index)
    ir.evaluate(ir.call_llvm_intrin("void", "llvm.prefetch", where, ir.int32(0), ir.int32(2), ir.int32(1)))


def own_function(name: str) -> contextlib.AbstractContextManager[object]:
    """Compile what is inside as an LLVM function of its own.

    A hot loop then has the registers for itself: inside a large function LLVM's allocator may keep every sum of a
    loop in memory because of what surrounds it.
    """
    manager: contextlib.AbstractContextManager[object] = ir.attr(0, "compute_scope", name)
    return manager


def intrinsic(dtype: str, name: str, *arguments: Expr) -> Expr:
    """Call an LLVM intrinsic without side effects."""
    return ir.call_llvm_pure_intrin(dtype, ir.llvm_lookup_intrinsic_id(name), *arguments)


def call(function: str, *arguments: Expr) -> None:
    """Call a function of `import_llvm` for its effect."""
    ir.evaluate(ir.call_extern("void", function, *arguments))


def address(buffer: Buffer, *index: Expr | int) -> Expr:
    """Where an element lies."""
    return ir.address_of(buffer[index])


def _on_stack(count: int, dtype: str) -> Buffer:
    """A buffer on the thread's stack, or in registers where LLVM can.

    TVM puts constant sizes below 1 KiB there when the scope is "global", and takes everything of the scope "local"
    from its workspace pool (apache-tvm 0.27).
    """
    return ir.sblock_alloc_buffer((count,), dtype)


class Registers:
    """Vectors that LLVM keeps in registers: indices are Python integers.

    Each has a buffer of its own. TVM would take one large buffer from its workspace pool instead of the stack, and
    LLVM would then write every register back to memory around each call that it cannot see through.
    """

    def __init__(self, count: int, dtype: str = "float32", lanes: int = LANES) -> None:
        self._lanes = lanes
        self._buffers = [_on_stack(lanes, dtype) for _ in range(count)]

    def __getitem__(self, index: int) -> Expr:
        return load(self._buffers[index], 0, lanes=self._lanes)

    def __setitem__(self, index: int, value: Expr) -> None:
        store(self._buffers[index], value, 0, lanes=self._lanes)

    def lane(self, index: int, lane: Expr | int) -> Expr:
        """One element of a vector."""
        return self._buffers[index][lane]

    def set_lane(self, index: int, lane: Expr | int, value: Expr) -> None:
        """Write one element of a vector."""
        ir.buffer_store(self._buffers[index], value, [lane])


class StackRows:
    """Rows of floats in the first cache, the row a Python integer, the place in it any expression.

    A row of up to 256 floats stays on the thread's stack; a common buffer would come from TVM's workspace pool, which
    costs more than a row's arithmetic.
    """

    def __init__(self, count: int, width: int) -> None:
        self._rows = [_on_stack(width, "float32") for _ in range(count)]

    def load(self, row: int, first: Expr | int, lanes: int = LANES) -> Expr:
        """`lanes` values from `first` on."""
        return load(self._rows[row], first, lanes=lanes)

    def store(self, row: int, first: Expr | int, value: Expr, lanes: int = LANES) -> None:
        """Write `lanes` values from `first` on."""
        store(self._rows[row], value, first, lanes=lanes)


def variable(value: Expr, dtype: str = "int64") -> Registers:
    """One number that changes; read and write element 0."""
    cell = Registers(1, dtype, lanes=1)
    cell[0] = value
    return cell


def ramp(first: Expr, lanes: int = LANES) -> Expr:
    """first, first + 1, ..."""
    return ir.ramp(first, 1, lanes)


def largest_lane(vector: Expr) -> Expr:
    """The largest element of a vector of `LANES` floats."""
    return intrinsic("float32", "llvm.vector.reduce.fmax", vector)


def sum_of_lanes(registers: Registers, index: int) -> Expr:
    """The sum of a register's elements, in order."""
    total = registers.lane(index, 0)
    for lane in range(1, LANES):
        total = total + registers.lane(index, lane)
    return total


def opaque(value: Expr, dtype: str = "int64") -> Expr:
    """A number that TVM's simplifier cannot look into.

    It otherwise takes half a minute over a few nested branches and loops whose bounds are quotients; LLVM sees
    through at once.
    """
    return variable(value, dtype)[0]


def when(condition: Expr, then: Callable[[], None], otherwise: Callable[[], None] | None = None) -> None:
    """Branch; a condition that is known while the kernel is built leaves no branch."""
    if isinstance(condition, bool):
        if condition:
            then()
        elif otherwise is not None:
            otherwise()
        return
    with ir.If(condition):
        with ir.Then():
            then()
        if otherwise is not None:
            with ir.Else():
                otherwise()


def each(count: Expr | int, body: Callable[[Expr | int], None]) -> None:
    """Run `body` for 0, 1, ...: unrolled when the count is a Python integer."""
    if isinstance(count, int):
        for index in range(count):
            body(index)
        return
    with serial(0, count) as index:
        body(index)


def switch(value: Expr, cases: Mapping[int, Callable[[], None]]) -> None:
    """Run the case of `value`, which is one of the keys."""
    (key, case), *rest = cases.items()
    if rest:
        when(value == key, case, lambda: switch(value, dict(rest)))
    else:
        case()
