"""Weights of an ONNX file as external data inside a plain safetensors file.

The layout of that file follows from the parameter list alone (`weights.safetensors_file.plan_file`), so the graph is
written before, or without, its weights: verification and `--keep-intermediates` write them when they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from vamc_compiler.parameters import ParameterSpec
from vamc_compiler.weights.safetensors_file import FilePlan

WEIGHTS_FILE = "weights.safetensors"

_ONNX_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "int8": onnx.TensorProto.INT8,
}


def inputs_to_external_data(
    model: onnx.ModelProto, parameters: Sequence[ParameterSpec], plan: FilePlan
) -> onnx.ModelProto:
    """A copy of `model` whose parameters are initialisers that point into `weights.safetensors` beside it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = {spec.name for spec in parameters}
    kept = [value for value in result.graph.input if value.name not in names]
    del result.graph.input[:]
    result.graph.input.extend(kept)
    for spec in parameters:
        tensor = result.graph.initializer.add(name=spec.name, data_type=_ONNX_TYPES[spec.dtype], dims=spec.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = plan.entries[spec.name]
        for key, value in (
            ("location", WEIGHTS_FILE),
            ("offset", entry.offset),
            ("length", entry.num_bytes),
        ):
            tensor.external_data.add(key=key, value=str(value))
    return result


def external_data_to_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The opposite of `inputs_to_external_data`: weights are graph inputs again, the last ones, in the same order."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = [tensor for tensor in result.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    kept = [tensor for tensor in result.graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    for tensor in weights:
        result.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    return result
