"""From a fault to the smallest subgraph that shows it: written whole, and run alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from damaged_files import copied, damage_weight, larger
from tiny_builds import NUM_TOKENS, SEQUENCE, TinyBuild, build_of
from tiny_models import SOURCE_CODE

from vamc_compiler.graph import PAGE_TOKENS, RankGraph
from vamc_compiler.model.registry import find_model
from vamc_compiler.stages import SilentReporter, Stages
from vamc_compiler.verify.bisect import bisect
from vamc_compiler.verify.blocks import BlockLimit
from vamc_compiler.verify.budgets import default_budget
from vamc_compiler.verify.compare import Form, Runner, Setting, compare_forms
from vamc_compiler.verify.compiled_stage import CompiledStage
from vamc_compiler.verify.reproduce import reproduce
from vamc_compiler.verify.result import FLOAT32_STAGE
from vamc_compiler.verify.run import Stage
from vamc_compiler.verify.steps import even_chunks
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.verification import Failure, Request, verify
from vamc_runtime.errors import UserError
from vamc_runtime.runstream import open_runstream

FILES = {"case.json", "expected.npy", "found.npy", "inputs.npz", "model.onnx", "reproduce.py"}
LIMIT = 1e-3
OTHER_SEQUENCE = SEQUENCE[::-1][:20]
LAYER = "model.layers.1."


def fail(build: TinyBuild, before: Stage, after: Stage) -> Failure:
    """Compare, and be outside the budget."""

    def whole(length: int) -> list[int]:
        return even_chunks(length, 64)

    setting = Setting(
        plan=build.plan, sequences=(OTHER_SEQUENCE, SEQUENCE), page_tokens=PAGE_TOKENS, decode=lambda ids: str(ids)
    )
    runner = Runner(setting)
    budget = default_budget(build.precision, bfloat16_prefill=False)
    one, other = Form(stage=before, chunks=whole), Form(stage=after, chunks=whole)
    result = compare_forms(runner, one, other, budget, check="prefill", block_limit=BlockLimit(LIMIT))
    assert not result.passed
    return Failure(result, runner, one, other, BlockLimit(LIMIT))


def with_fault(graph: RankGraph, change: Callable[[onnx.GraphProto], None]) -> RankGraph:
    """A simplification that changed a value."""
    model = graph.model()
    change(model.graph)
    return replace(graph, simplified=model.SerializeToString())


def swap_gate_and_up(graph: onnx.GraphProto) -> None:
    node = [node for node in graph.node if node.op_type == "SiluMul"][1]
    node.input[:] = [node.input[1], node.input[0]]


def other_scale(graph: onnx.GraphProto) -> None:
    node = [node for node in graph.node if node.op_type == "PagedAttention"][1]
    (scale,) = [attribute for attribute in node.attribute if attribute.name == "scale"]
    scale.f *= 1.1


def fail_simplified(subject: Subject) -> tuple[Failure, Subject]:
    build = build_of(subject)
    return fail(build, build.graph_stage(traced=True), build.graph_stage()), subject


@pytest.fixture
def swapped(compiled: Subject) -> tuple[Failure, Subject]:
    return fail_simplified(replace(compiled, graphs=(with_fault(compiled.graphs[0], swap_gate_and_up),)))


def read_case(folder: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    return document


def test_a_wrong_node(swapped: tuple[Failure, Subject], tmp_path: Path) -> None:
    case = bisect(*swapped, tmp_path / "case")
    assert case is not None and case.nodes == ("SiluMul",)
    assert (case.location.block, case.location.op) == ("layer 1 feed-forward", f"SiluMul {LAYER}mlp")
    assert case.error > case.limit == LIMIT
    assert {path.name for path in case.folder.iterdir()} == FILES
    model = onnx.load(case.folder / "model.onnx")
    assert [node.op_type for node in model.graph.node] == ["SiluMul"]
    inputs = dict(np.load(case.folder / "inputs.npz"))
    assert [array.shape for array in inputs.values()] == [(1, 20), (1, 20)], "the worst token alone"
    assert set(inputs) == {value.name for value in model.graph.input}
    document = read_case(case.folder)
    assert document["compiled"] is False and document["operations"] == ["SiluMul"]


def test_the_script_shows_the_fault(swapped: tuple[Failure, Subject], tmp_path: Path) -> None:
    """In a process of its own, from anywhere."""
    case = bisect(*swapped, tmp_path / "case")
    assert case is not None
    script = case.folder / "reproduce.py"
    assert len([line for line in script.read_text().splitlines() if line]) <= 3
    done = subprocess.run([sys.executable, script], cwd="/", capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert str(case.location) in done.stdout
    assert "operations: SiluMul" in done.stdout
    recorded, now = (float(line.split()[-1]) for line in done.stdout.splitlines()[-2:])
    assert recorded == pytest.approx(now, rel=1e-3) and now > LIMIT


def test_where_tokens_see_one_another_all_are_kept(
    compiled: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = replace(compiled, graphs=(with_fault(compiled.graphs[0], other_scale),))
    failure, subject = fail_simplified(faulty)
    case = bisect(failure, subject, tmp_path / "case")
    assert case is not None and case.location.op == f"PagedAttention {LAYER}self_attn"
    assert "PagedAttention" in case.nodes
    inputs = dict(np.load(case.folder / "inputs.npz"))
    lengths = {len(array) for name, array in inputs.items() if "proj" in name or name == "position_ids"}
    (length,) = {len(inputs["position_ids"])}
    assert lengths == {length} and 1 < length <= NUM_TOKENS
    assert reproduce(case.folder / "reproduce.py") == 1
    assert "PagedAttention" in capsys.readouterr().out


def test_the_wrong_rank_is_cut_out(two_ranks: TinyBuild, compiled: Subject, tmp_path: Path) -> None:
    graphs = (two_ranks.graphs[0], with_fault(two_ranks.graphs[1], swap_gate_and_up))
    kv_cache = replace(compiled.manifest.kv_cache, num_heads=two_ranks.graphs[0].num_kv_slots)
    subject = replace(
        compiled,
        source=two_ranks.source,
        checkpoint=two_ranks.checkpoint,
        graphs=graphs,
        manifest=replace(compiled.manifest, kv_cache=kv_cache),
    )
    case = bisect(*fail_simplified(subject), tmp_path / "case")
    assert case is not None and case.location.ranks == (1,)
    assert case.nodes == ("SiluMul",)
    names = list(np.load(case.folder / "inputs.npz"))
    assert names and all(name.startswith("rank1:") for name in names)
    assert reproduce(case.folder / "reproduce.py") == 1


@contextmanager
def damaged(subject: Subject, directory: Path, name: str) -> Iterator[tuple[Failure, Subject]]:
    """The compiled model with other weights than it should have."""
    subject = copied(subject, directory)
    damage_weight(subject.runstream, name, larger)
    build = build_of(subject)
    stage = CompiledStage("compiled, 1 rank", open_runstream(subject.runstream), build.plan, max_tokens=64)
    with stage:
        yield fail(build, build.graph_stage(), stage), subject


@pytest.mark.parametrize(
    ("weight", "block", "op", "operations"),
    [
        (f"{LAYER}self_attn.o_proj.weight", "layer 1 attention", f"Linear {LAYER}self_attn.o_proj", {"Linear"}),
        ("lm_head.weight", "head", "Linear lm_head", {"Linear"}),
        ("model.embed_tokens.weight", "embedding", "Embedding model.embed_tokens", {"Embedding"}),
    ],
)
def test_a_shipped_weight(
    compiled: Subject,
    tmp_path: Path,
    weight: str,
    block: str,
    op: str,
    operations: set[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Compiled again the subgraph is right: what was shipped is at fault, not the compiler."""
    with damaged(compiled, tmp_path, weight) as failed:
        case = bisect(*failed, tmp_path / "case")
    assert case is not None
    assert (case.location.block, case.location.op) == (block, op)
    assert operations <= set(case.nodes) and len(case.nodes) <= 3
    assert read_case(case.folder)["compiled"] is True
    assert reproduce(case.folder / "reproduce.py") == 0
    recorded, graph, again = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[-3:])
    assert recorded == pytest.approx(case.error, rel=0.01) and recorded > 0.01
    assert graph < 1e-4 and again < 1e-4


def test_a_shipped_int8_weight(compiled_int8: Subject, tmp_path: Path) -> None:
    """The layer's input is not known: its norm is part of the subgraph."""
    name = "model.layers.0.self_attn.W_pack"
    with damaged(compiled_int8, tmp_path, f"{name}.scale_w") as failed:
        case = bisect(*failed, tmp_path / "case")
    assert case is not None and case.location.op == f"QuantizedLinearDynamic {name}"
    assert case.nodes[:2] == ("RMSNorm", "QuantizedLinearDynamic")
    assert reproduce(case.folder / "reproduce.py") == 0


def test_a_modeling_file_is_cut_out_before_anything_is_rounded(compiled_int8: Subject, tmp_path: Path) -> None:
    """An error far below that of 8-bit numbers: the subgraph has the checkpoint's weights."""
    source_code = tmp_path / "source_code"
    shutil.copytree(SOURCE_CODE, source_code)
    attention = source_code / "attention.py"
    right = attention.read_text(encoding="utf-8")
    attention.write_text(right.replace("self.head_dim**-0.5", "self.head_dim**-0.502"), encoding="utf-8")
    source = find_model(compiled_int8.checkpoint.directory, source_code, trust_checkpoint_code=False)
    subject = replace(compiled_int8, source=source)
    cases = []
    request = Request(subject=subject, parts=frozenset(("reference", "modeling")))
    verify(request, Stages(SilentReporter()), lambda failure: cases.append(bisect(failure, subject, tmp_path / "case")))
    (case,) = cases
    assert case is not None
    assert (case.location.stage, case.location.block) == (FLOAT32_STAGE, "layer 0 attention")
    assert "PagedAttention" in case.nodes and not any("Quantized" in node for node in case.nodes)
    assert case.limit < case.error < 0.02
    assert reproduce(case.folder / "reproduce.py") == 1, "what is exported from it is wrong too"


def test_no_block_of_its_own(swapped: tuple[Failure, Subject], tmp_path: Path) -> None:
    failure, subject = swapped
    nothing = replace(failure, result=replace(failure.result, blocks=()))
    assert bisect(nothing, subject, tmp_path / "case") is None
    assert not list(tmp_path.iterdir())


def test_an_earlier_case_is_replaced_and_nothing_else(swapped: tuple[Failure, Subject], tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "thesis.txt").write_text("two years of work")
    with pytest.raises(UserError, match="not from a bisection"):
        bisect(*swapped, folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["case"], "nothing half written"
    (folder / "case.json").write_text("{}")
    bisect(*swapped, folder)
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_place_that_cannot_be_written(swapped: tuple[Failure, Subject], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        bisect(*swapped, tmp_path / "file" / "case")


@pytest.mark.parametrize("missing", ["model.onnx", "inputs.npz", "case.json", "found.npy"])
def test_a_case_that_is_not_whole(swapped: tuple[Failure, Subject], tmp_path: Path, missing: str) -> None:
    case = bisect(*swapped, tmp_path / "case")
    assert case is not None
    (case.folder / missing).unlink()
    with pytest.raises(UserError, match=f"not whole.*{missing}"):
        reproduce(case.folder / "reproduce.py")
