"""A subgraph through the compiler, as it is now: does the fault come from the compiler or from what was shipped?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax

from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.table import KernelTable
from vamc_compiler.parameters import ParameterDType, ParameterSpec, from_tensor
from vamc_compiler.relax_stage.importer import STEP_FUNCTION, import_step
from vamc_compiler.relax_stage.pipeline import build, run_passes
from vamc_compiler.relax_stage.targets import resolve_targets
from vamc_compiler.verify.run import Array
from vamc_runtime.executor import configure_threads
from vamc_runtime.machine import available_cores

_DTYPES: dict[int, ParameterDType] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.INT8: "int8",
}


def run_compiled(model: onnx.ModelProto, inputs: Mapping[str, Array], case: Mapping[str, Any]) -> Array:
    """Compile the model for the case's CPU and run it.

    Args:
        model: a subgraph with its weights as initialisers.
        inputs: arrays in the sizes that its inputs state.
        case: what `case.json` holds.

    Returns:
        float32, its output.
    """
    weights = [tensor for tensor in model.graph.initializer if _is_weight(tensor)]
    open_model, specs = _weights_as_inputs(model, weights)
    target = resolve_targets(tuple(case["mcpu"][:1]))[0]
    table = KernelTable(InstructionSet.of(target.requires), bfloat16_prefill=case.get("bfloat16_prefill", False))
    num_tokens = max((len(array) for array in inputs.values() if array.dtype != np.float16), default=1)
    step = import_step(open_model, specs, table, max_step_tokens=num_tokens)
    executable = build(run_passes(step.module, target.tvm_target()), target.tvm_target())
    configure_threads(available_cores())
    machine = relax.VirtualMachine(executable, tvm.cpu())
    parameters = [_packed(tensor, spec, step.packings) for tensor, spec in zip(weights, specs, strict=True)]
    arguments = [tvm.runtime.tensor(np.array(inputs[value.name])) for value in model.graph.input]
    result = machine[STEP_FUNCTION](*arguments, [tvm.runtime.tensor(array) for array in parameters])
    output = result[0] if not hasattr(result, "numpy") else result
    return np.array(output.numpy(), np.float32)


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return tensor.name.startswith("rank") and tensor.data_type in _DTYPES


def _weights_as_inputs(
    model: onnx.ModelProto, weights: list[onnx.TensorProto]
) -> tuple[onnx.ModelProto, list[ParameterSpec]]:
    """The graph with its weights as the last inputs, and their list."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = {tensor.name for tensor in weights}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    specs = []
    for tensor in weights:
        result.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        origin = from_tensor(tensor.name)
        specs.append(ParameterSpec(tensor.name, tuple(tensor.dims), _DTYPES[tensor.data_type], origin))
    return result, specs


def _packed(tensor: onnx.TensorProto, spec: ParameterSpec, packings: Mapping[str, Any]) -> Array:
    if spec.dtype == "bfloat16":
        array = np.frombuffer(tensor.raw_data, np.uint16).reshape(spec.shape)
    else:
        array = onnx.numpy_helper.to_array(tensor)
    packing = packings.get(spec.name)
    packed: Array = np.ascontiguousarray(array if packing is None else packing.pack(array))
    return packed
