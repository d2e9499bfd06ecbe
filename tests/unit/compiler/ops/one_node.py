"""A model of one `vamc` node with its function attached, run by onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from vamc_compiler.onnx_stage.function_bodies import attach_function_bodies
from vamc_compiler.ops import DOMAIN, ONNX_OPSET_VERSION, OPSET_VERSION
from vamc_compiler.verify.graph_stage import open_session

Array = npt.NDArray[Any]


def run_node(op: str, arrays: list[Array], num_outputs: int = 1, **attributes: Any) -> list[Array]:
    """Run the node on `arrays`; every size is symbolic, as in an exported graph."""
    names = [f"x{i}" for i in range(len(arrays))]
    outputs = [f"y{i}" for i in range(num_outputs)]
    inputs = [
        onnx.helper.make_tensor_value_info(
            name,
            onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            [f"{name}_{i}" for i in range(array.ndim)],
        )
        for name, array in zip(names, arrays, strict=True)
    ]
    node = onnx.helper.make_node(op, names, outputs, domain=DOMAIN, **attributes)
    graph = onnx.helper.make_graph([node], "one_node", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])
    opsets = [onnx.helper.make_opsetid("", ONNX_OPSET_VERSION), onnx.helper.make_opsetid(DOMAIN, OPSET_VERSION)]
    model = attach_function_bodies(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))
    session = open_session(model, num_threads=1)
    feeds = {name: np.ascontiguousarray(array) for name, array in zip(names, arrays, strict=True)}
    results: list[Array] = session.run(None, feeds)
    return results
