"""What is emitted around linear layers: rows are prepared once, by their producer where it can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from vamc_compiler.kernels.activations import FLOAT32, RMSNorm, SiluMul
from vamc_compiler.kernels.emitter import Emitter
from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.table import KernelTable

WIDTH = 24
PLAIN = InstructionSet()
FAST = InstructionSet(avx512=True, vnni=True, bf16=True)
DYNAMIC, WHOLE = "QuantizedLinearDynamic", "QuantizedLinearPerChannel"
Step = Callable[[Emitter, relax.BlockBuilder, Any], Any]


def called(step: Step, instructions: InstructionSet = FAST, **options: Any) -> list[str]:
    """The kernels that a function of x float32 [n, WIDTH] calls, in order; the module is well formed."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([tirx.Var("n", "int64"), WIDTH], "float32"))
    with builder.function("step", [x]):
        with builder.dataflow():
            result = builder.emit_output(step(Emitter(KernelTable(instructions, **options)), builder, x))
        builder.emit_func_output(result)
    module = builder.get()
    relax.analysis.well_formed(module)
    names: list[str] = []

    def visit(expression: Any) -> None:
        if isinstance(expression, relax.Call) and isinstance(expression.args[0], tvm.ir.GlobalVar):
            names.append(expression.args[0].name_hint)

    relax.analysis.post_order_visit(module["step"], visit)
    return names


def linear(
    emitter: Emitter, builder: relax.BlockBuilder, x: Any, op: str, dtype: str = "int8", top: Any | None = None
) -> Any:
    """A square layer on x."""
    packing = emitter.table.packing(op, dtype)
    shape = list(packing.packed_shape((WIDTH, WIDTH)))
    stored = {"bfloat16": "uint16"}.get(dtype, dtype)
    weight = relax.const(np.zeros(shape, stored))
    scale = [relax.const(np.ones(WIDTH, "float32"))] if dtype == "int8" else []
    attributes = {"out_features": WIDTH, "in_features": WIDTH, "weight_dtype": dtype.encode()}
    return emitter.linear(builder, op, [x, weight, *scale, *([] if top is None else [top])], attributes)


def add(left: Any, right: Any) -> Any:
    return relax.op.add(left, right)


def test_q_k_and_v_share_their_input() -> None:
    def step(emitter: Emitter, builder: relax.BlockBuilder, x: Any) -> Any:
        q, k, v = (linear(emitter, builder, x, DYNAMIC) for _ in range(3))
        return add(add(q, k), v)

    kernel = f"linear_vnni_digits8_{WIDTH}x{WIDTH}"
    assert called(step) == [f"prepare_digits8_{WIDTH}", kernel, kernel, kernel]


def test_each_format_is_prepared_once() -> None:
    def step(emitter: Emitter, builder: relax.BlockBuilder, x: Any) -> Any:
        results = [linear(emitter, builder, x, op) for op in (DYNAMIC, WHOLE, DYNAMIC, WHOLE)]
        return add(add(results[0], results[1]), add(results[2], results[3]))

    assert [name for name in called(step) if name.startswith("prepare")] == [
        f"prepare_digits8_{WIDTH}",
        f"prepare_digits16_{WIDTH}",
    ]


def test_another_tensor_is_prepared_again() -> None:
    def step(emitter: Emitter, builder: relax.BlockBuilder, x: Any) -> Any:
        return linear(emitter, builder, linear(emitter, builder, x, DYNAMIC), DYNAMIC)

    assert sum(name.startswith("prepare") for name in called(step)) == 2


def test_a_computed_input_is_prepared() -> None:
    """An expression that no one has named yet."""

    def step(emitter: Emitter, builder: relax.BlockBuilder, x: Any) -> Any:
        return linear(emitter, builder, add(x, x), WHOLE)

    assert [name for name in called(step) if name != "add"] == [
        f"prepare_digits16_{WIDTH}",
        f"linear_vnni_digits16_{WIDTH}x{WIDTH}",
    ]


@pytest.mark.parametrize(
    ("op", "dtype", "instructions", "form"),
    [
        (DYNAMIC, "int8", FAST, "digits8"),
        (DYNAMIC, "int8", PLAIN, "whole8"),
        (WHOLE, "int8", FAST, "digits16"),
        (WHOLE, "int8", PLAIN, "whole16"),
        ("Linear", "bfloat16", FAST, "bfloat16"),
    ],
)
def test_a_producer_writes_what_the_layer_reads(op: str, dtype: str, instructions: InstructionSet, form: str) -> None:
    """No kernel stands between the norm and the layers."""

    def step(emitter: Emitter, builder: relax.BlockBuilder, x: Any) -> Any:
        weight = relax.const(np.ones(WIDTH, "float32"))
        wanted = emitter.form_for({"consumer": f"{op}:{dtype}".encode()})
        (rows,) = emitter.rows(builder, RMSNorm(1e-5, residual=False), [x, weight], wanted)
        return add(linear(emitter, builder, rows, op, dtype), linear(emitter, builder, rows, op, dtype))

    names = called(step, instructions)
    assert names[0] == f"rms_norm_{form}_{WIDTH}"
    assert [name.startswith("linear") for name in names] == [False, True, True]


def test_the_stream_stays_float32_beside_its_rows() -> None:
    def step(emitter: Emitter, builder: relax.BlockBuilder, x: Any) -> Any:
        weight = relax.const(np.ones(WIDTH, "float32"))
        form = emitter.form_for({"consumer": f"{DYNAMIC}:int8"})
        source = RMSNorm(1e-5, residual=True)
        stream, rows = emitter.rows(builder, source, [x, x, weight], form, extra_outputs=1)
        assert stream.ty.dtype == "float32" and int(stream.ty.shape[1]) == WIDTH
        return add(stream, linear(emitter, builder, rows, DYNAMIC))

    assert called(step)[0] == f"add_rms_norm_digits8_{WIDTH}"


def test_rows_without_a_single_reader_stay_plain() -> None:
    def step(emitter: Emitter, builder: relax.BlockBuilder, x: Any) -> Any:
        assert emitter.form_for({}) is FLOAT32
        (rows,) = emitter.rows(builder, SiluMul(), [x, x], emitter.form_for({}))
        return add(rows, linear(emitter, builder, rows, DYNAMIC))

    names = called(step)
    assert names[:2] == [f"silu_mul_float32_{WIDTH}", f"prepare_digits8_{WIDTH}"]


def test_bfloat16_prefill_prepares_both_forms() -> None:
    """The number of tokens decides at run time which of them is read."""

    def step(emitter: Emitter, builder: relax.BlockBuilder, x: Any) -> Any:
        return linear(emitter, builder, x, "Linear", "float16")

    fast = called(step, bfloat16_prefill=True)
    assert fast == [f"prepare_float32_bfloat16_{WIDTH}", f"linear_float16_as_bfloat16_{WIDTH}x{WIDTH}"]
    assert called(step, PLAIN, bfloat16_prefill=True) == called(step, PLAIN), "this CPU cannot"


def test_a_given_maximum_scales_the_rows() -> None:
    """Layers that share it share the rows; those that scale by the row's own maximum have others."""

    def step(emitter: Emitter, builder: relax.BlockBuilder, x: Any) -> Any:
        top = emitter.row_max(builder, x)
        shared = [linear(emitter, builder, x, DYNAMIC, top=top) for _ in range(2)]
        own = linear(emitter, builder, x, DYNAMIC)
        other = linear(emitter, builder, x, DYNAMIC, top=emitter.row_max(builder, x))
        return add(add(*shared), add(own, other))

    assert [name for name in called(step) if not name.startswith("linear")] == [
        f"row_max_{WIDTH}",
        f"prepare_by_top_digits8_{WIDTH}",
        f"prepare_digits8_{WIDTH}",
        f"row_max_{WIDTH}",
        f"prepare_by_top_digits8_{WIDTH}",
    ]
