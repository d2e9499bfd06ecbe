"""From the simplified ONNX graph to a Relax module with one function `step`.

TVM's ONNX front end ignores the domain of an op, so `vamc::X` is renamed to `vamc_X` and the front end's table of
converters is extended while it runs. Written against apache-tvm 0.27.0.post1 (pinned): a newer front end that reads
domains makes the renaming unnecessary.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import tvm
import tvm.relax.frontend.onnx.onnx_frontend as onnx_frontend
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from vamc_compiler.kernels.emitter import Emitter
from vamc_compiler.kernels.table import KernelTable
from vamc_compiler.ops import DOMAIN, OPS, VamcOp
from vamc_compiler.packing import Packing
from vamc_compiler.parameters import ParameterSpec

STEP_FUNCTION = "step"


@dataclass(frozen=True)
class ImportedStep:
    """The Relax module, and how its kernels want the weights."""

    module: Any
    packings: Mapping[str, Packing]


def plan_packings(
    model: onnx.ModelProto, parameters: Sequence[ParameterSpec], kernels: KernelTable
) -> dict[str, Packing]:
    """The layout of every parameter that a kernel reads packed, by name."""
    dtypes = {spec.name: spec.dtype for spec in parameters}
    packings: dict[str, Packing] = {}
    for node in model.graph.node:
        op = OPS.get(node.op_type) if node.domain == DOMAIN else None
        if op is None or op.weight_input is None:
            continue
        weight = node.input[op.weight_input]
        packings[weight] = kernels.packing(op.kernel_name, dtypes[weight])
    return packings


def _prepare(
    model: onnx.ModelProto, parameters: Sequence[ParameterSpec], packings: Mapping[str, Packing]
) -> onnx.ModelProto:
    """A copy with `vamc` ops renamed, packed weights in their packed shapes, and true widths as attributes."""
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    del prepared.functions[:]
    specs = {spec.name: spec for spec in parameters}
    for value in prepared.graph.input:
        if value.name not in specs:
            continue
        spec = specs[value.name]
        shape = packings[spec.name].packed_shape(spec.shape) if spec.name in packings else spec.shape
        # bfloat16 goes through Relax as its bits: TVM would turn arithmetic on it into float32.
        bfloat16 = spec.dtype == "bfloat16"
        element = onnx.TensorProto.UINT16 if bfloat16 else value.type.tensor_type.elem_type
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, element, shape))
    for node, consumer in plan_consumers(prepared, specs).items():
        prepared.graph.node[node].attribute.append(onnx.helper.make_attribute("consumer", consumer))
    for node in prepared.graph.node:
        if node.domain != DOMAIN:
            continue
        weight_input = OPS[node.op_type].weight_input
        if weight_input is not None:
            spec = specs[node.input[weight_input]]
            for name, attribute in zip(("out_features", "in_features"), spec.shape, strict=True):
                node.attribute.append(onnx.helper.make_attribute(name, attribute))
            node.attribute.append(onnx.helper.make_attribute("weight_dtype", spec.dtype))
        node.op_type, node.domain = f"{DOMAIN}_{node.op_type}", ""
    return prepared


def plan_consumers(model: onnx.ModelProto, specs: Mapping[str, ParameterSpec]) -> dict[int, str]:
    """Which nodes can write their rows in the format of the linear layers that read them, and no one else.

    Layers that take the maximum to scale by are no such readers: it is computed from the float rows (`RowMax`).

    Returns the node's index -> "op:weight dtype" of those layers.
    """
    readers: dict[str, set[str | None]] = {value.name: {None} for value in model.graph.output}
    for node in model.graph.node:
        op = OPS.get(node.op_type) if node.domain == DOMAIN else None
        for position, name in enumerate(node.input):
            reader = None
            if op is not None and op.weight_input is not None and position == 0 and op.variant_of is None:
                reader = f"{op.name}:{specs[node.input[op.weight_input]].dtype}"
            readers.setdefault(name, set()).add(reader)
    planned = {}
    for index, node in enumerate(model.graph.node):
        op = OPS.get(node.op_type) if node.domain == DOMAIN else None
        if op is None or op.rows_output is None:
            continue
        kinds = readers.get(node.output[op.rows_output], set())
        if len(kinds) == 1 and None not in kinds:
            planned[index] = str(next(iter(kinds)))
    return planned


def _converter(op: VamcOp, kernels: Emitter) -> type:
    def convert(cls: type, builder: Any, inputs: Any, attributes: Any, params: Any) -> Any:
        return op.lower(builder, [x for x in inputs if x is not None], attributes, kernels)

    return type(f"Vamc{op.name}", (onnx_frontend.OnnxOpConverter,), {"_impl_v1": classmethod(convert)})


class _Gather(onnx_frontend.Gather):  # type: ignore[misc]  # the front end has no types
    """Gather with computed indices, which are never negative here: rows are looked up as they are.

    The front end's own converter adds arithmetic for negative indices to every look-up, and reads out of bounds when
    an index is too large; clipping costs nothing.
    """

    @classmethod
    def _impl_v13(cls, builder: Any, inputs: Any, attributes: Any, params: Any) -> Any:
        data, indices = inputs[:2]
        if any(isinstance(x, (tvm.ir.GenericConst, relax.ShapeExpr)) for x in (data, indices)):
            return super()._impl_v13(builder, inputs, attributes, params)
        return relax.op.take(data, indices, attributes.get("axis", 0), mode="clip")


@contextlib.contextmanager
def _vamc_converters(kernels: Emitter) -> Iterator[None]:
    """Let the front end know the `vamc` ops while it imports."""
    original = onnx_frontend._get_convert_map
    table = original() | {f"{DOMAIN}_{op.name}": _converter(op, kernels) for op in OPS.values()}
    table["Gather"] = _Gather
    onnx_frontend._get_convert_map = lambda: table
    try:
        yield
    finally:
        onnx_frontend._get_convert_map = original


def import_step(
    model: onnx.ModelProto,
    parameters: Sequence[ParameterSpec],
    kernels: KernelTable,
    *,
    max_step_tokens: int,
) -> ImportedStep:
    """Import the graph; all parameters become one tuple, the last argument of `step`.

    Args:
        model: simplified graph, weights as its last inputs in the order of `parameters`.
        parameters: the rank's parameters.
        kernels: the kernels of the target.
        max_step_tokens: most tokens in one step, the bound from which memory is planned.
    """
    packings = plan_packings(model, parameters, kernels)
    prepared = _prepare(model, parameters, packings)
    num_inputs = len(prepared.graph.input) - len(parameters)
    assert [v.name for v in prepared.graph.input][num_inputs:] == [s.name for s in parameters], (
        "weights are the last inputs, in the order of the parameter list"
    )
    with _vamc_converters(Emitter(kernels)), warnings.catch_warnings():
        # Expected: dots in names become underscores, and ONNX's checker does not know the renamed ops.
        warnings.simplefilter("ignore", UserWarning)
        module = from_onnx(prepared)
    step = module["main"].with_attr("num_input", num_inputs).with_attr("global_symbol", STEP_FUNCTION)
    step = step.with_attr("tir_var_upper_bound", {"n": max_step_tokens, "m": max_step_tokens})
    module.update_func(module.get_global_var("main"), step)
    functions = {
        (STEP_FUNCTION if variable.name_hint == "main" else variable): function
        for variable, function in module.functions.items()
    }
    module = relax.transform.BundleModelParams("params")(type(module)(functions))
    return ImportedStep(module, packings)
