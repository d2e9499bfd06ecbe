"""One graph for all ranks, and a modeling file that breaks this is found out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_models import CONFIGS, SOURCE_CODE, tiny_source, write_config

from vamc_compiler import graph as graph_module
from vamc_compiler.graph import PAGE_TOKENS, RankGraph, make_rank_graph, make_rank_graphs
from vamc_compiler.model.registry import find_model
from vamc_compiler.precision import ModelPrecision
from vamc_runtime.errors import UserError

SHARED_MAXIMA = {"RowMax": 2, "AllReduceMax": 2}
"""One for each of the two row-parallel layers."""
NUM_RANKS = 4  # pads 6 heads, replicates 2 key/value heads, pads the vocabulary of 50


@pytest.mark.parametrize(
    ("family", "precision", "linears"),
    [
        ("llama", ModelPrecision(), {"Linear": 8}),
        ("baichuan 7B", ModelPrecision(), {"Linear": 6}),
        ("baichuan 13B", ModelPrecision(unquantized="bfloat16"), {"Linear": 6}),
        (
            "baichuan 13B",
            ModelPrecision(quantization="int8_per_channel"),
            {"Linear": 1, "QuantizedLinearPerChannel": 3, "QuantizedLinearPerChannelByTop": 2} | SHARED_MAXIMA,
        ),
        (
            "llama",
            ModelPrecision(quantization="w8a8_dynamic", lm_head=True),
            {"QuantizedLinearDynamic": 6, "QuantizedLinearDynamicByTop": 2} | SHARED_MAXIMA,
        ),
    ],
    ids=["llama", "baichuan 7B", "baichuan 13B in bfloat16", "baichuan 13B in int8", "llama in w8a8 with its head"],
)
def test_the_first_and_the_last_rank_have_the_same_graph(
    tmp_path: Path, family: str, precision: ModelPrecision, linears: dict[str, int]
) -> None:
    source = tiny_source(tmp_path, family, num_hidden_layers=1)
    first, last = (make_rank_graph(source, NUM_RANKS, precision, rank) for rank in (0, NUM_RANKS - 1))
    assert first.simplified == last.simplified
    assert (first.rank, last.rank) == (0, NUM_RANKS - 1)
    assert first.num_kv_slots == last.num_kv_slots == (1 if family == "llama" else 2)
    model = first.model()
    onnx.checker.check_model(model)
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.domain == "vamc":
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    assert counts == linears | {
        "Embedding": 1,
        "RMSNorm": 1,
        "AddRMSNorm": 2,
        "SiluMul": 1,
        "PagedAttention": 1,
        "AllReduce": 2,
        "AllGather": 1,
    }
    names = [value.name for value in model.graph.input]
    assert names[:6] == ["input_ids", "position_ids", "seq_ids", "page_table", "logits_index", "kv_cache_0"]
    assert names[6:] == [spec.name for spec in first.parameters]
    kv_cache = model.graph.input[5].type.tensor_type.shape.dim
    head_dim = source.config.head_dim
    assert [d.dim_value for d in kv_cache][1:] == [2, first.num_kv_slots, PAGE_TOKENS, head_dim]
    symbols = {d.dim_param for value in model.graph.input for d in value.type.tensor_type.shape.dim} - {""}
    assert symbols == {"n", "b", "p", "m", "cache_pages"}
    assert not model.graph.initializer or sum(len(t.raw_data) for t in model.graph.initializer) < 1000


def test_one_rank_shares_no_maxima(tmp_path: Path) -> None:
    source = tiny_source(tmp_path, "llama", num_hidden_layers=1)
    graph = make_rank_graph(source, 1, ModelPrecision(quantization="int8_per_channel"), 0)
    kinds = [node.op_type for node in graph.model().graph.node if node.domain == "vamc"]
    assert kinds.count("QuantizedLinearPerChannel") == 7
    assert not {"RowMax", "AllReduceMax", "QuantizedLinearPerChannelByTop", "AllReduce"} & set(kinds)


RANK_IN_THE_GRAPH = """
from .modeling_llama_vacc import LlamaForCausalLM

class BadForCausalLM(LlamaForCausalLM):
    def forward(self, input_ids, position_ids, seq_ids, page_table, logits_index, kv_cache):
        logits, updated = super().forward(input_ids, position_ids, seq_ids, page_table, logits_index, kv_cache)
        return logits + float(self.config.rank_index), updated
"""


def test_a_rank_dependent_constant_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, "llama")
    mapped = {"AutoModelForCausalLM": "modeling_bad_vacc.BadForCausalLM"}
    raw = CONFIGS["llama"] | {"num_hidden_layers": 1, "auto_map": mapped}
    (tmp_path / "config_vacc.json").write_text(json.dumps(raw))
    (tmp_path / "modeling_bad_vacc.py").write_text(RANK_IN_THE_GRAPH)
    source = find_model(tmp_path, SOURCE_CODE, trust_checkpoint_code=True)
    with pytest.raises(UserError, match="rank 1's graph differs from rank 0's") as caught:
        make_rank_graphs(source, 2, ModelPrecision(), num_workers=1, on_progress=lambda done, total: None)
    assert "modeling_bad_vacc.py" in caught.value.found
    assert "add_constant" in caught.value.fix


def test_progress_and_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks come back in any order; the result is in rank order."""
    source = tiny_source(tmp_path, "llama")
    real = vars(graph_module)["run_tasks"]

    def backwards(function: Any, tasks: Any, num_workers: int, on_done: Any) -> None:
        real(function, list(tasks)[::-1], num_workers, on_done)

    def stand_in(source: Any, num_ranks: int, precision: ModelPrecision, rank: int) -> RankGraph:
        assert (num_ranks, precision) == (3, ModelPrecision(quantization="int8_per_channel"))
        return RankGraph(rank, b"traced", b"same", (), 1)

    monkeypatch.setattr(graph_module, "run_tasks", backwards)
    monkeypatch.setattr(graph_module, "make_rank_graph", stand_in)
    progress: list[tuple[int, int]] = []
    graphs = make_rank_graphs(
        source,
        3,
        ModelPrecision(quantization="int8_per_channel"),
        num_workers=1,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert [graph.rank for graph in graphs] == [0, 1, 2]
    assert progress == [(1, 3), (2, 3), (3, 3)]
