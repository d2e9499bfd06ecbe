"""A row-parallel quantized layer from ONNX to compiled code: the maximum of the row comes from all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import tvm
import tvm_ffi
from tvm import relax

from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.table import KernelTable
from vamc_compiler.ops import DOMAIN, ONNX_OPSET_VERSION, silu_mul
from vamc_compiler.parameters import ParameterSpec, from_tensor
from vamc_compiler.relax_stage.importer import ImportedStep, import_step, plan_consumers
from vamc_compiler.relax_stage.pipeline import build, run_passes
from vamc_compiler.relax_stage.targets import host_target

Array = npt.NDArray[Any]
OPS = ["QuantizedLinearPerChannel", "QuantizedLinearDynamic"]
INPUTS, OUTPUTS = 77, 33
SPECS = [
    ParameterSpec("weight", (OUTPUTS, INPUTS), "int8", from_tensor("weight")),
    ParameterSpec("scale", (OUTPUTS,), "float32", from_tensor("scale")),
]


def down_projection(op: str, rank_num: int) -> onnx.ModelProto:
    """silu(gate) * up, then the layer, as the quantizer makes it."""
    text = f"""
    <ir_version: 10, opset_import: ["" : {ONNX_OPSET_VERSION}, "{DOMAIN}" : 1]>
    graph (float[n, {INPUTS}] gate, float[n, {INPUTS}] up, int8[{OUTPUTS}, {INPUTS}] weight, float[{OUTPUTS}] scale)
        => (float[n, {OUTPUTS}] y) {{
      x = {DOMAIN}.SiluMul(gate, up)
    """
    if rank_num == 1:
        return onnx.parser.parse_model(f"{text} y = {DOMAIN}.{op}(x, weight, scale) }}")
    return onnx.parser.parse_model(f"""{text}
      own = {DOMAIN}.RowMax(x)
      top = {DOMAIN}.AllReduceMax(own)
      y = {DOMAIN}.{op}ByTop(x, weight, scale, top)
    }}""")


def imported(op: str, rank_num: int) -> ImportedStep:
    kernels = KernelTable(InstructionSet.of(host_target().requires))
    return import_step(down_projection(op, rank_num), SPECS, kernels, max_step_tokens=32)


def called_kernels(step: ImportedStep) -> list[str]:
    return sorted(str(name.name_hint) for name in step.module.get_global_vars() if name.name_hint != "step")


@pytest.fixture
def other_rank() -> Iterator[dict[str, Array]]:
    """What `vamc.all_reduce_max` finds on the other rank, and what it was given."""
    exchanged: dict[str, Array] = {}

    def all_reduce_max(x: Any, out: Any) -> None:
        exchanged["own"] = x.numpy().copy()
        out.copyfrom(np.maximum(x.numpy(), exchanged["other"]))

    tvm.register_global_func("vamc.all_reduce_max", all_reduce_max, override=True)
    yield exchanged
    tvm_ffi.registry.remove_global_func("vamc.all_reduce_max")


@pytest.mark.parametrize("op", OPS)
def test_only_a_layer_that_scales_by_its_own_rows_has_them_quantized_by_their_producer(op: str) -> None:
    specs = {spec.name: spec for spec in SPECS}
    assert plan_consumers(down_projection(op, 1), specs) == {0: f"{op}:int8"}
    assert plan_consumers(down_projection(op, 2), specs) == {}
    alone, shared = called_kernels(imported(op, 1)), called_kernels(imported(op, 2))
    (linear,) = (name for name in alone if name.startswith("linear"))
    assert len(alone) == 2 and linear in shared, "the layer's kernel is the same"
    (quantize,) = (name for name in shared if name.startswith("prepare_by_top"))
    assert shared == sorted([linear, quantize, f"row_max_{INPUTS}", f"silu_mul_float32_{INPUTS}"])


@pytest.mark.parametrize("op", OPS)
def test_wherever_the_maximum_comes_from(op: str) -> None:
    model = down_projection(op, 2)
    del model.graph.node[1:3]
    model.graph.input.append(onnx.helper.make_tensor_value_info("top", onnx.TensorProto.FLOAT, ["n", 1]))
    assert plan_consumers(model, {spec.name: spec for spec in SPECS}) == {}


@pytest.mark.parametrize("op", OPS)
def test_layers_with_and_without_a_maximum_do_not_share_an_input(op: str) -> None:
    model = down_projection(op, 2)
    model.graph.node.append(onnx.helper.make_node(op, ["x", "weight", "scale"], ["z"], domain=DOMAIN))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["n", OUTPUTS]))
    step = import_step(model, SPECS, KernelTable(InstructionSet.of(host_target().requires)), max_step_tokens=32)
    by_top, own = (name for name in called_kernels(step) if name.startswith("prepare"))
    assert by_top.startswith("prepare_by_top") and own == by_top.replace("_by_top", "")


@pytest.mark.parametrize("op", OPS)
def test_packings_are_those_of_the_op_without_a_maximum(op: str) -> None:
    assert imported(op, 2).packings == imported(op, 1).packings


@pytest.mark.parametrize(("op", "levels"), [(OPS[0], 32767), (OPS[1], 127)])
def test_compiled(op: str, levels: int, other_rank: dict[str, Array]) -> None:
    rng = np.random.default_rng(0)
    gate, up = (rng.standard_normal((9, INPUTS)).astype(np.float32) for _ in range(2))
    weight = rng.integers(-127, 128, (OUTPUTS, INPUTS)).astype(np.int8)
    scale = np.exp(rng.uniform(-9, 0, OUTPUTS)).astype(np.float32)
    x = silu_mul(*map(torch.from_numpy, (gate, up))).numpy()
    own = np.abs(x).max(1, keepdims=True)
    other_rank["other"] = other = own * rng.uniform(0.5, 3, own.shape).astype(np.float32)

    step, target = imported(op, 2), host_target().tvm_target()
    machine = relax.VirtualMachine(build(run_passes(step.module, target), target), tvm.cpu())
    parameters = tuple(map(tvm.runtime.tensor, (step.packings["weight"].pack(weight), scale)))
    found = machine["step"](*map(tvm.runtime.tensor, (gate, up)), parameters).numpy()
    np.testing.assert_allclose(other_rank["own"], own, rtol=1e-5)

    def is_scaled_by(top: Array) -> bool:
        exact = (np.rint(x * (levels / top)) @ weight.astype(np.float64).T) * (top / levels) * scale
        # The kernel's exp differs in its last bits, so a few values may fall to the other side of a tie.
        flips = 3 * 127 * (top / levels) * scale
        return bool((np.abs(found - exact) <= flips + 1e-6 * np.abs(exact)).all())

    assert is_scaled_by(np.maximum(own, other))
    assert not is_scaled_by(own)
