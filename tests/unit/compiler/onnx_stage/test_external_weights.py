"""An ONNX file points at the right bytes of a plain safetensors file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors import safe_open

from vamc_compiler.onnx_stage.external_weights import WEIGHTS_FILE, inputs_to_external_data
from vamc_compiler.onnx_stage.function_bodies import attach_function_bodies
from vamc_compiler.ops import DOMAIN, ONNX_OPSET_VERSION
from vamc_compiler.parameters import FromValue, ParameterSpec
from vamc_compiler.weights.checkpoint import Checkpoint
from vamc_compiler.weights.writer import RankFile, plan_rank_file, write_rank_files

TEXT = f"""
<ir_version: 10, opset_import: ["" : {ONNX_OPSET_VERSION}, "{DOMAIN}" : 1]>
graph (float[n, 3] x, float[3] norm, int8[7, 3] quant_w, float[7] scale_w, float16[5, 7] head) => (float[n, 5] y) {{
  normed = Mul(x, norm)
  hidden = {DOMAIN}.QuantizedLinearPerChannel(normed, quant_w, scale_w)
  y = {DOMAIN}.Linear(hidden, head)
}}
"""
RNG = np.random.default_rng(0)
VALUES: dict[str, Any] = {
    "norm": RNG.standard_normal(3).astype(np.float32),
    "quant_w": RNG.integers(-127, 128, (7, 3)).astype(np.int8),
    "scale_w": RNG.uniform(0.1, 1, 7).astype(np.float32),
    "head": RNG.standard_normal((5, 7)).astype(np.float16),
}
PARAMETERS = [ParameterSpec(name, value.shape, value.dtype.name, FromValue(value)) for name, value in VALUES.items()]


@pytest.fixture
def model() -> onnx.ModelProto:
    return attach_function_bodies(onnx.parser.parse_model(TEXT))


@pytest.fixture
def file(tmp_path: Path) -> RankFile:
    file = plan_rank_file(tmp_path / WEIGHTS_FILE, PARAMETERS, {}, {"format": "pt"})
    write_rank_files([file], Checkpoint(tmp_path, {}), num_workers=1, on_progress=lambda done, total: None)
    return file


def test_offsets_point_at_the_right_bytes(model: onnx.ModelProto, file: RankFile) -> None:
    before = model.SerializeToString()
    result = inputs_to_external_data(model, PARAMETERS, file.plan)
    assert model.SerializeToString() == before
    assert [value.name for value in result.graph.input] == ["x"]
    assert [tensor.name for tensor in result.graph.initializer] == list(VALUES)
    content = file.path.read_bytes()
    for tensor in result.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == WEIGHTS_FILE
        begin, length = int(entries["offset"]), int(entries["length"])
        assert begin % 64 == 0
        expected = VALUES[tensor.name]
        assert onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type) == expected.dtype
        assert tuple(tensor.dims) == expected.shape
        assert content[begin : begin + length] == expected.tobytes()


def test_the_file_is_plain_safetensors(file: RankFile) -> None:
    with safe_open(file.path, "np") as stored:
        for name, value in VALUES.items():
            np.testing.assert_array_equal(stored.get_tensor(name), value)


def test_onnxruntime_runs_it_as_it_is(tmp_path: Path, model: onnx.ModelProto, file: RankFile) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(inputs_to_external_data(model, PARAMETERS, file.plan).SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = RNG.standard_normal((2, 3)).astype(np.float32)
    weight = VALUES["quant_w"] * VALUES["scale_w"][:, None]
    expected = (x * VALUES["norm"]) @ weight.T @ VALUES["head"].astype(np.float32).T
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-5)


def test_without_its_weights_the_file_does_not_load(tmp_path: Path, model: onnx.ModelProto, file: RankFile) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(inputs_to_external_data(model, PARAMETERS, file.plan).SerializeToString())
    file.path.unlink()
    with pytest.raises(Exception, match=WEIGHTS_FILE):
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
