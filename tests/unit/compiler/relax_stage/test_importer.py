"""From ONNX to one Relax function `step` whose weights are a tuple, packed as the kernels want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import tvm
import tvm.relax.frontend.onnx.onnx_frontend as onnx_frontend
from attention_reference import random_step
from tvm import relax

from vamc_compiler.graph import PAGE_TOKENS, RankGraph
from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.table import KernelTable
from vamc_compiler.ops import DOMAIN
from vamc_compiler.packing import PAIRS, PANELS, QUADS
from vamc_compiler.parameters import FromValue, ParameterDType, ParameterSpec, from_tensor
from vamc_compiler.relax_stage.importer import ImportedStep, import_step, plan_consumers, plan_packings
from vamc_compiler.relax_stage.pipeline import build, run_passes
from vamc_compiler.relax_stage.targets import host_target

KERNELS = KernelTable(InstructionSet())
Array = npt.NDArray[Any]


def import_graph(graph: RankGraph) -> ImportedStep:
    return import_step(graph.model(), graph.parameters, KERNELS, max_step_tokens=32)


@pytest.fixture(scope="module")
def step(two_layers: RankGraph) -> ImportedStep:
    return import_graph(two_layers)


def spec(name: str, *shape: int, dtype: ParameterDType = "float16") -> ParameterSpec:
    return ParameterSpec(name, shape, dtype, from_tensor(name))


def test_only_weights_that_a_kernel_reads_are_packed() -> None:
    nodes = [
        onnx.helper.make_node("Linear", ["x", "plain"], ["a"], domain=DOMAIN),
        onnx.helper.make_node("Linear", ["x", "brain"], ["a2"], domain=DOMAIN),
        onnx.helper.make_node("QuantizedLinearDynamic", ["a", "dynamic", "scale"], ["b2"], domain=DOMAIN),
        onnx.helper.make_node("Embedding", ["ids", "table"], ["c2"], domain=DOMAIN),
        onnx.helper.make_node("QuantizedLinearPerChannel", ["a", "quant", "scale"], ["b"], domain=DOMAIN),
        onnx.helper.make_node("Gather", ["embedding", "ids"], ["c"]),
        onnx.helper.make_node("Linear", ["b", "stranger"], ["d"], domain="elsewhere"),
        onnx.helper.make_node("AllReduce", ["d"], ["f"], domain=DOMAIN),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    specs = [
        *(spec(name, 8, 4) for name in ("plain", "embedding", "stranger", "table")),
        spec("brain", 8, 4, dtype="bfloat16"),
        *(spec(name, 8, 4, dtype="int8") for name in ("quant", "dynamic")),
        spec("scale", 8, dtype="float32"),
    ]
    assert plan_packings(model, specs, KERNELS) == {"plain": PANELS, "brain": PAIRS, "quant": QUADS, "dynamic": QUADS}


def test_every_cpu_reads_the_same_packings() -> None:
    """One set of weights serves all libraries of a runstream."""
    everything = dict.fromkeys(("avx512", "vnni", "bf16", "amx", "amx_bf16"), True)
    for op, dtype in [
        ("Linear", "float16"),
        ("Linear", "bfloat16"),
        *((f"QuantizedLinear{x}", "int8") for x in ("PerChannel", "Dynamic")),
    ]:
        levels = [{}, {"avx512": True}, {"avx512": True, "vnni": True, "bf16": True}, everything]
        tables = [
            KernelTable(InstructionSet(**level), bfloat16_prefill=fast) for level in levels for fast in (False, True)
        ]
        assert len({table.packing(op, dtype) for table in tables}) == 1


def consumers(*nodes: tuple[str, list[str], list[str]], outputs: Sequence[str] = ()) -> dict[int, str]:
    """What `plan_consumers` says of a graph whose weights are called half..., brain... or quant..."""
    made = [onnx.helper.make_node(op, i, o, domain="" if op == "Add" else DOMAIN) for op, i, o in nodes]
    named = [onnx.ValueInfoProto(name=name) for name in outputs]
    dtypes: dict[str, ParameterDType] = {"half": "float16", "brain": "bfloat16", "quant": "int8"}
    weights = {name for _, inputs, _ in nodes for name in inputs if name[:-1] in dtypes}
    specs = {name: spec(name, 8, 8, dtype=dtypes[name[:-1]]) for name in weights}
    return plan_consumers(onnx.helper.make_model(onnx.helper.make_graph(made, "g", [], named)), specs)


NORM = ("RMSNorm", ["x", "w"], ["y"])
ADD_NORM = ("AddRMSNorm", ["x", "x2", "w"], ["stream", "y"])


def dynamic(x: str, number: int) -> tuple[str, list[str], list[str]]:
    return "QuantizedLinearDynamic", [x, f"quant{number}", "scale"], [f"z{number}"]


def test_rows_are_written_as_their_readers_want_them() -> None:
    half = [("Linear", ["y", f"half{i}"], [f"z{i}"]) for i in range(3)]
    assert consumers(NORM, *half) == {0: "Linear:float16"}
    assert consumers(ADD_NORM, ("Linear", ["y", "brain0"], ["z"])) == {0: "Linear:bfloat16"}
    assert consumers(("SiluMul", ["g", "u"], ["y"]), dynamic("y", 0), dynamic("y", 1)) == {
        0: "QuantizedLinearDynamic:int8"
    }
    chain = consumers(NORM, dynamic("y", 0), ("SiluMul", ["z0", "z0"], ["s"]), ("Linear", ["s", "half0"], ["t"]))
    assert chain == {0: "QuantizedLinearDynamic:int8", 2: "Linear:float16"}


def test_rows_stay_plain_where_another_reads_them() -> None:
    assert consumers(NORM) == {}
    assert consumers(NORM, dynamic("y", 0), ("Add", ["y", "x"], ["z"])) == {}, "another op"
    assert consumers(NORM, dynamic("y", 0), outputs=["y"]) == {}, "a result of the step"
    assert consumers(NORM, dynamic("y", 0), ("Linear", ["y", "half0"], ["z"])) == {}, "layers of two kinds"
    assert consumers(NORM, ("Linear", ["y", "half0"], ["a"]), ("Linear", ["y", "brain0"], ["b"])) == {}, "of two types"
    assert consumers(NORM, ("AllReduce", ["y"], ["z"])) == {}, "an op without a weight"
    assert consumers(NORM, ("QuantizedLinearDynamic", ["x", "quant0", "y"], ["z"])) == {}, "as something else than x"
    assert consumers(ADD_NORM, dynamic("stream", 0)) == {}, "the stream, not the rows"
    assert consumers(("Embedding", ["ids", "half0"], ["y"]), ("Linear", ["y", "half1"], ["z"])) == {}, "no rows to form"


def test_packings_of_a_model(two_layers: RankGraph, step: ImportedStep) -> None:
    expected = {
        parameter.name: PANELS
        for parameter in two_layers.parameters
        if parameter.name.endswith(("_proj.weight", "lm_head.weight"))
    }
    assert len(expected) == 2 * 7 + 1
    assert step.packings == expected


def test_the_signature_of_the_step(two_layers: RankGraph, step: ImportedStep) -> None:
    function = step.module["step"]
    *inputs, parameters = function.params
    assert [v.name for v in inputs[:5]] == ["input_ids", "position_ids", "seq_ids", "page_table", "logits_index"]
    assert [v.name for v in inputs[5:]] == ["kv_cache_0", "kv_cache_1"]
    assert int(function.attrs["num_input"]) == len(inputs)
    assert function.attrs["global_symbol"] == "step"
    bounds = function.attrs["tir_var_upper_bound"]
    assert {str(name): int(bound) for name, bound in bounds.items()} == {"n": 32, "m": 32}
    fields = list(parameters.ty.fields)
    assert len(fields) == len(two_layers.parameters)
    for field, parameter in zip(fields, two_layers.parameters, strict=True):
        packing = step.packings.get(parameter.name)
        shape = parameter.shape if packing is None else packing.packed_shape(parameter.shape)
        assert tuple(int(size) for size in field.shape) == shape, parameter.name
        assert str(field.dtype) == parameter.dtype


def test_no_weight_is_part_of_the_module(step: ImportedStep) -> None:
    assert step.module.script().count("metadata") == 0


def test_the_front_end_is_as_before(two_layers: RankGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    before = onnx_frontend._get_convert_map
    import_graph(two_layers)
    assert onnx_frontend._get_convert_map is before

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the front end fails")

    monkeypatch.setattr("vamc_compiler.relax_stage.importer.from_onnx", broken)
    with pytest.raises(RuntimeError, match="the front end fails"):
        import_graph(two_layers)
    assert onnx_frontend._get_convert_map is before


def test_the_given_graph_stays(two_layers: RankGraph) -> None:
    model = two_layers.model()
    before = model.SerializeToString()
    import_step(model, two_layers.parameters, KERNELS, max_step_tokens=32)
    assert model.SerializeToString() == before


def test_weights_in_another_order_are_noticed(two_layers: RankGraph) -> None:
    with pytest.raises(AssertionError, match="in the order of the parameter list"):
        import_step(two_layers.model(), two_layers.parameters[::-1], KERNELS, max_step_tokens=32)


def transposed_keys(cache: Array) -> Array:
    """[s, d] of the op's keys to [d, s], as the kernel keeps them."""
    turned = cache.copy()
    turned[:, 0] = cache[:, 0].swapaxes(2, 3).reshape(cache[:, 0].shape)
    return turned


def test_the_compiled_step_equals_onnxruntime(two_layers: RankGraph, step: ImportedStep) -> None:
    """A mixed batch: a prefill, a chunk in the middle and two decodes; logits and every cache page."""
    rng = np.random.default_rng(0)
    caches, arguments = [], None
    for _ in range(2):
        # As in the runtime, pages begin as zeros.
        arguments = random_step(rng, 6, 2, 8, PAGE_TOKENS, [(0, 7), (13, 5), (16, 1), (40, 1)], unwritten=0.0)
        caches.append(arguments.kv_cache)
    assert arguments is not None
    caches[0] = rng.standard_normal(caches[0].shape).astype(np.float16)
    inputs: dict[str, Array] = {
        "input_ids": rng.integers(0, 50, len(arguments.seq_ids)).astype(np.int32),
        "position_ids": arguments.position_ids,
        "seq_ids": arguments.seq_ids,
        "page_table": arguments.page_table,
        "logits_index": np.array([6, 11, 12, 13], np.int32),
        "kv_cache_0": caches[0],
        "kv_cache_1": caches[1],
    }
    weights: dict[str, Array] = {
        parameter.name: parameter.origin.value
        if isinstance(parameter.origin, FromValue)
        else (rng.standard_normal(parameter.shape) * 0.3).astype(parameter.dtype)
        for parameter in two_layers.parameters
    }
    session = onnxruntime.InferenceSession(two_layers.simplified, providers=["CPUExecutionProvider"])
    expected = session.run(None, inputs | weights)

    target = host_target().tvm_target()
    machine = relax.VirtualMachine(build(run_passes(step.module, target), target), tvm.cpu())
    packed = [step.packings[name].pack(value) if name in step.packings else value for name, value in weights.items()]
    for layer in range(2):
        inputs[f"kv_cache_{layer}"] = transposed_keys(caches[layer])
    tensors = [tvm.runtime.tensor(array) for array in inputs.values()]
    results = machine["step"](*tensors, tuple(tvm.runtime.tensor(value) for value in packed))
    assert results[0].numpy().shape == (4, 50)
    np.testing.assert_allclose(results[0].numpy(), expected[0], rtol=1e-4, atol=5e-5)
    for layer in range(2):
        cache = tensors[5 + layer].numpy()
        assert not np.array_equal(cache, transposed_keys(caches[layer])), "pages are updated in place"
        np.testing.assert_allclose(cache, transposed_keys(expected[1 + layer]), rtol=2e-3, atol=1e-3)
