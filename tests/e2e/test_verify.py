"""`vamc verify` and the certificate of `vamc compile`, as a user meets them: good, wrong, and misused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from e2e_tools import CHECKPOINTS, REPOSITORY, assert_nothing_published, assert_user_error
from fixture_types import CopyRunstream, Vamc
from safetensors.torch import load_file, save_file

from vamc_compiler.compile import CompileRequest, compile_model
from vamc_compiler.config import load_config
from vamc_runtime.machine import cpu_features
from vamc_runtime.manifest import FileRecord, hash_file, read_manifest
from vamc_runtime.safetensors_file import read_header, tensor_views

CONFIG = REPOSITORY / "build_in" / "build" / "hf_llama_fp16.yaml"
WEIGHTS = "rank_0/params.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint, of which the model takes the first layer alone: there is little to compile."""
    folder = tmp_path_factory.mktemp("checkpoint") / "llama-mini"
    shutil.copytree(CHECKPOINTS / "llama-mini", folder)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    places: dict[str, str] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        kept = {name: t for name, t in load_file(shard).items() if ".layers." not in name or ".layers.0." in name}
        save_file(kept, shard)
        places |= dict.fromkeys(kept, shard.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.fixture
def settings(checkpoint: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Options of a build in tmp_path/w; more settings may be added."""

    def options(*changes: str) -> list[str]:
        common = [f"workspace.path={tmp_path / 'w'}", "name=out", f"frontend.checkpoint={checkpoint}"]
        return [part for change in (*common, "verify.tokens=64", *changes) for part in ("--set", change)]

    return options


@pytest.fixture(scope="module")
def runstreams(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By tensor-parallel degree, not verified."""
    workspace = tmp_path_factory.mktemp("verify")
    made = {}
    for tp in (1, 2):
        changes = [f"frontend.checkpoint={checkpoint}", "verify.when=off", f"frontend.model_kwargs.tp={tp}"]
        config = load_config(CONFIG, [*changes, "verify.tokens=64", f"workspace.path={workspace}", f"name=tp{tp}"])
        made[tp] = compile_model(CompileRequest(config=config)).path
    return made


@pytest.fixture(scope="module")
def runstream(runstreams: dict[int, Path]) -> Path:
    """On one rank."""
    return runstreams[1]


def failed_pairs(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [pair for pair in document["pairs"] if not pair["passed"]]


def flip_a_bit(runstream: Path, tensor: str) -> None:
    """Change one weight, and let the record fit: the file is whole, and wrong."""
    file = np.memmap(runstream / WEIGHTS, np.uint8, "r+")
    values = dict(tensor_views(read_header(runstream / WEIGHTS), file))[tensor]
    values.view(np.uint8).reshape(-1)[101] ^= 0x40
    file.flush()
    record = FileRecord(num_bytes=len(file), sha256=hash_file(runstream / WEIGHTS))
    manifest = read_manifest(runstream)
    manifest = dataclasses.replace(manifest, files={**manifest.files, WEIGHTS: record})
    (runstream / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")


def test_a_config(vamc: Vamc, settings: Callable[..., list[str]], tmp_path: Path) -> None:
    """Compiled for the purpose, and gone afterwards."""
    outcome = vamc("verify", CONFIG, *settings(), "--report", tmp_path / "report")
    assert outcome.status == 0, outcome.errors
    assert "built-in sample" in outcome.output and "LlamaForCausalLM" in outcome.output
    assert "comparisons within budget" in outcome.output and "within budget" not in outcome.errors
    assert "compiled, 1 rank" in outcome.errors and "Traceback" not in outcome.errors
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {"index.html", "report.json", "junit.xml"}


def test_a_runstream_of_two_ranks(vamc: Vamc, runstreams: list[Path]) -> None:
    before = sorted(runstreams[2].parent.iterdir())
    outcome = vamc("verify", runstreams[2], "--json")
    assert outcome.status == 0, outcome.errors
    document = json.loads(outcome.output)
    assert document["passed"] and document["num_ranks"] == 2 and document["tokens"]["num_tokens"] == 64
    stages = {pair["after"] for pair in document["pairs"]}
    assert {
        "modeling file, float32",
        "modeling file, 1 rank",
        "modeling file, 2 ranks",
        "compiled, 1 rank",
        "compiled, 2 ranks",
    } <= stages
    assert {"exported ONNX, 2 ranks", "simplified ONNX, 2 ranks", "weights, 2 ranks"} <= stages
    assert sorted(runstreams[2].parent.iterdir()) == before


def test_a_changed_weight_is_named(vamc: Vamc, runstream: Path, copy_runstream: CopyRunstream) -> None:
    path = copy_runstream(runstream)
    tensor = "model.layers.0.mlp.up_proj.weight"
    flip_a_bit(path, tensor)
    outcome = vamc("verify", path, "--json")
    assert outcome.status == 1, outcome.errors
    (weights,) = (pair for pair in failed_pairs(json.loads(outcome.output)) if pair["check"] == "weights")
    assert weights["location"]["op"] == tensor
    assert weights["location"]["detail"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "empty.txt").write_bytes(b"")
    (folder / "latin.txt").write_bytes("Les élèves étudient à l'école. ".encode("latin-1") * 200)
    (folder / "short.txt").write_text("The capital of France", encoding="utf-8")
    (folder / "blank.txt").write_text(" \n" * 500, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("empty.txt", ["is empty"]),
        ("latin.txt", ["not UTF-8", "iconv"]),
        ("short.txt", ["tokens", "64"]),
        ("blank.txt", ["white space"]),
        ("missing.txt", ["missing.txt"]),
    ],
)
def test_wrong_text(vamc: Vamc, runstream: Path, texts: Path, name: str, parts: list[str]) -> None:
    """With whole messages, before anything is computed."""
    outcome = vamc("verify", runstream, "--set", f"verify.text={texts / name}")
    assert_user_error(outcome, str(texts / name), *parts)
    assert outcome.output == ""


def test_a_runstream_without_graphs(vamc: Vamc, runstream: Path, copy_runstream: CopyRunstream) -> None:
    path = copy_runstream(runstream)
    shutil.rmtree(path / "onnx")
    assert_user_error(vamc("verify", path), "onnx/rank_0/model.onnx is missing", "compile it again")


def test_a_checkpoint_that_has_changed_since(vamc: Vamc, runstream: Path, checkpoint: Path, tmp_path: Path) -> None:
    changed = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, changed)
    name = "model.layers.0.input_layernorm.weight"
    shard = changed / json.loads((changed / "model.safetensors.index.json").read_text())["weight_map"][name]
    state = load_file(shard)
    state[name] = state[name] + torch.ones_like(state[name])
    save_file(state, shard)
    outcome = vamc("verify", runstream, "--set", f"frontend.checkpoint={changed}")
    assert_user_error(outcome, str(changed), "is not the checkpoint", read_manifest(runstream).checkpoint.digest[:16])


def test_wrong_targets(vamc: Vamc, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("no config")
    for name in ("nothing.yaml", "folder", "notes.txt"):
        assert_user_error(vamc("verify", tmp_path / name), name)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("verify.budget.mean_kl=small", ["verify.budget.mean_kl", "small"]),
        ("verify.budget.mean_klx=1", ["mean_klx", "mean_kl"]),
        ("verify.budget=3", ["verify.budget"]),
        ("verify.tokens=0", ["verify.tokens"]),
        ("verify.when=later", ["verify.when", "later"]),
    ],
)
def test_wrong_settings(vamc: Vamc, runstream: Path, change: str, parts: list[str]) -> None:
    for target in (CONFIG, runstream):
        assert_user_error(vamc("verify", target, "--set", change), *parts)


def test_an_impossible_budget_publishes_nothing(vamc: Vamc, settings: Callable[..., list[str]], tmp_path: Path) -> None:
    outcome = vamc("compile", CONFIG, *settings("verify.budget.mean_kl=0"))
    assert outcome.status == 1, outcome.errors
    assert outcome.output == "" and "Traceback" not in outcome.errors
    assert "nothing was published" in outcome.errors and "mean KL" in outcome.errors
    assert_nothing_published(tmp_path / "w")


def test_a_certificate_by_default(vamc: Vamc, settings: Callable[..., list[str]], tmp_path: Path) -> None:
    outcome = vamc("compile", CONFIG, *settings())
    assert outcome.status == 0, outcome.errors
    assert "verify" in outcome.errors and "mean KL" in outcome.errors
    document = json.loads(vamc("inspect", tmp_path / "w" / "out", "--json").output)
    assert document["numerics"]["status"] == "passed"
    assert document["numerics"]["num_tokens"] == 64
    assert "built-in sample" in document["numerics"]["tokens"]
    assert "numerics.json" in document["files"]
    assert "passed" in vamc("inspect", tmp_path / "w" / "out").output


def test_off_is_recorded(vamc: Vamc, runstream: Path) -> None:
    output = vamc("inspect", runstream).output
    assert "not verified: verify.when is off" in output
    assert json.loads(vamc("inspect", runstream, "--json").output)["numerics"]["status"] == "off"


@pytest.mark.skipif("amx_tile" in cpu_features(), reason="this CPU runs code for sapphirerapids")
def test_code_for_another_cpu_is_not_verified(vamc: Vamc, settings: Callable[..., list[str]], tmp_path: Path) -> None:
    outcome = vamc("compile", CONFIG, *settings("backend.target={kind: llvm, mcpu: [sapphirerapids]}"))
    assert outcome.status == 0, outcome.errors
    assert outcome.errors.count("the runstream is not verified, except for its weights") == 1
    numerics = json.loads(vamc("inspect", tmp_path / "w" / "out", "--json").output)["numerics"]
    assert numerics["status"] == "skipped"
    assert [figure["name"] for figure in numerics["figures"]] == ["tensors that differ"]
    assert "cannot run what was compiled for another one" in numerics["reason"]
    assert "cannot run" in vamc("inspect", tmp_path / "w" / "out").output
