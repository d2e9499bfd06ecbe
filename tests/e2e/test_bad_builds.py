"""What a wrong config or checkpoint gets: one message a person can act on, exit status 2, nothing half written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from e2e_tools import CHECKPOINTS, REPOSITORY, VAMC, assert_nothing_published, assert_user_error
from fixture_types import CopyCheckpoint, Vamc
from safetensors.torch import load_file, save_file

CONFIG = REPOSITORY / "build_in" / "build" / "hf_baichuan_fp16.yaml"
LLAMA = REPOSITORY / "build_in" / "build" / "hf_llama_fp16.yaml"


def compile_arguments(config: Path, workspace: Path, *settings: str) -> list[object]:
    overrides = [f"workspace.path={workspace}", "name=out", "frontend.model_kwargs.tp=1", "verify.when=off", *settings]
    return ["compile", config, *(part for override in overrides for part in ("--set", override))]


def test_misspelled_key_names_place_and_nearest_name(vamc: Vamc, tmp_path: Path) -> None:
    config = tmp_path / "build.yaml"
    config.write_text(CONFIG.read_text(encoding="utf-8").replace("  dtype: fp16", "  dtpye: fp16"), encoding="utf-8")
    for command in ("compile", "check"):
        outcome = vamc(command, config)
        line = next(i for i, text in enumerate(config.read_text().splitlines(), 1) if "dtpye" in text)
        assert_user_error(outcome, f"build.yaml:{line}:3", "dtpye", "dtype")


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("frontend.model_kwargs.tp=two", ["frontend.model_kwargs.tp", "two"]),
        ("frontend.shape.input_ids=[[250], [1024]]", ["250", "16"]),
        ("frontend.shape.input_ids=[[512], [256]]", ["512", "256"]),
        ("frontend.shape.input_ids=[[256], [4096]]", ["4096", "1024"]),
        ("frontend.model_kwargs.tp=7", ["7", "6 attention heads"]),
        ("frontend.checkpoint=/nowhere/at/all", ["/nowhere/at/all", "frontend.checkpoint"]),
        ("backend.target={kind: llvm, mcpu: [znver44]}", ["znver44", "znver4"]),
    ],
)
def test_wrong_setting(setting: str, parts: list[str], vamc: Vamc, tmp_path: Path) -> None:
    assert_user_error(vamc(*compile_arguments(CONFIG, tmp_path / "w", setting)), *parts)
    assert_nothing_published(tmp_path / "w")


def damage_missing_shard(path: Path) -> list[str]:
    (path / "pytorch_model-00002-of-00002.bin").unlink()
    return ["pytorch_model-00002-of-00002.bin", "missing"]


def damage_truncated_shard(path: Path) -> list[str]:
    shard = path / "pytorch_model-00002-of-00002.bin"
    os.truncate(shard, shard.stat().st_size // 2)
    return ["pytorch_model-00002-of-00002.bin", "damaged"]


def damage_shape(path: Path) -> list[str]:
    shard = path / "pytorch_model-00001-of-00002.bin"
    state = torch.load(shard, weights_only=True)
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][:-1].clone()
    torch.save(state, shard)
    return ["model.embed_tokens.weight", "shape"]


def damage_missing_tensor(path: Path) -> list[str]:
    shard = path / "pytorch_model-00001-of-00002.bin"
    state = torch.load(shard, weights_only=True)
    del state["model.embed_tokens.weight"]
    torch.save(state, shard)
    return ["model.embed_tokens.weight", "missing"]


def damage_architecture(path: Path) -> list[str]:
    config = json.loads((path / "config.json").read_text())
    config["model_type"] = "mamba"
    (path / "config.json").write_text(json.dumps(config))
    return ["mamba", "LLaMA 1, 2, 3", "Baichuan2 13B"]


def damage_config(path: Path) -> list[str]:
    (path / "config.json").write_text('{"model_type": "baichuan", ')
    return ["config.json", "cannot be read"]


def damage_values(path: Path) -> list[str]:
    shard = path / "pytorch_model-00001-of-00002.bin"
    state = torch.load(shard, weights_only=True)
    state["model.embed_tokens.weight"][3, 5] = float("nan")
    torch.save(state, shard)
    return ["model.embed_tokens.weight", "values"]


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing_shard,
        damage_truncated_shard,
        damage_shape,
        damage_missing_tensor,
        damage_architecture,
        damage_config,
        damage_values,
    ],
)
def test_wrong_checkpoint(
    damage: Callable[[Path], list[str]], vamc: Vamc, copy_checkpoint: CopyCheckpoint, tmp_path: Path
) -> None:
    checkpoint = copy_checkpoint("baichuan2-13b-mini")
    parts = damage(checkpoint)
    outcome = vamc(*compile_arguments(CONFIG, tmp_path / "w", f"frontend.checkpoint={checkpoint}"))
    assert_user_error(outcome, *parts)
    assert_nothing_published(tmp_path / "w")


class _WritesAFile:
    """A pickle of this would run code in whoever loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_pickle_that_is_not_plain_tensors_is_never_run(
    vamc: Vamc, copy_checkpoint: CopyCheckpoint, tmp_path: Path
) -> None:
    checkpoint = copy_checkpoint("baichuan2-13b-mini")
    witness = tmp_path / "code-was-run"
    torch.save({"x": _WritesAFile(witness)}, checkpoint / "pytorch_model-00002-of-00002.bin")
    outcome = vamc(*compile_arguments(CONFIG, tmp_path / "w", f"frontend.checkpoint={checkpoint}"))
    assert_user_error(outcome, "pytorch_model-00002-of-00002.bin", "more than plain tensors")
    assert not witness.exists()
    assert_nothing_published(tmp_path / "w")


def test_cut_off_safetensors(vamc: Vamc, copy_checkpoint: CopyCheckpoint, tmp_path: Path) -> None:
    checkpoint = copy_checkpoint("llama-mini")
    shard = checkpoint / "model-00002-of-00002.safetensors"
    os.truncate(shard, shard.stat().st_size - 100)
    outcome = vamc(*compile_arguments(LLAMA, tmp_path / "w", f"frontend.checkpoint={checkpoint}"))
    assert_user_error(outcome, "model-00002-of-00002.safetensors", "cut off")


def test_single_file_checkpoint_without_index_compiles(
    vamc: Vamc, copy_checkpoint: CopyCheckpoint, tmp_path: Path
) -> None:
    checkpoint = copy_checkpoint("llama-mini")
    merged: dict[str, torch.Tensor] = {}
    for shard in sorted(checkpoint.glob("*.safetensors")):
        merged |= load_file(shard)
        shard.unlink()
    (checkpoint / "model.safetensors.index.json").unlink()
    save_file(merged, checkpoint / "model.safetensors")
    assert vamc(*compile_arguments(LLAMA, tmp_path / "w", f"frontend.checkpoint={checkpoint}")).status == 0
    outcome = vamc("run", tmp_path / "w" / "out", "--prompt", "The", "--max-new-tokens", "4")
    assert outcome.status == 0


@pytest.mark.parametrize("function", ["posix_fallocate", "pwrite"])
def test_full_disk(function: str, vamc: Vamc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, function, no_space)
        assert_user_error(vamc(*compile_arguments(LLAMA, tmp_path / "w")), "full", "workspace.path")
    assert_nothing_published(tmp_path / "w")
    assert vamc(*compile_arguments(LLAMA, tmp_path / "w")).status == 0
    assert (tmp_path / "w" / "out" / "manifest.json").is_file()


def test_place_taken_by_something_else(vamc: Vamc, tmp_path: Path) -> None:
    (tmp_path / "w" / "out").mkdir(parents=True)
    (tmp_path / "w" / "out" / "thesis.txt").write_text("two years of work")
    assert_user_error(vamc(*compile_arguments(LLAMA, tmp_path / "w")), "is not a runstream")
    assert (tmp_path / "w" / "out" / "thesis.txt").read_text() == "two years of work"


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_build_leaves_nothing(signum: Any, status: int, vamc: Vamc, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    command = [str(VAMC), *map(str, compile_arguments(LLAMA, workspace))]
    build = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background may have inherited an ignored SIGINT; a user's terminal has not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert build.stderr is not None
    for line in build.stderr:
        if " check" in line:  # the next stage, the trace, has begun
            break
    deadline = time.monotonic() + 60
    while not any(workspace.glob(".out.building-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    build.send_signal(signum)
    rest = build.communicate(timeout=60)[1]
    assert build.returncode == status
    assert "Traceback" not in rest
    assert_nothing_published(workspace)


def test_killed_build_is_cleaned_up_by_the_next(vamc: Vamc, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    dead = subprocess.Popen(["true"])
    dead.wait()
    leftover = workspace / f".out.building-{dead.pid}"
    leftover.mkdir(parents=True)
    (leftover / "manifest.json").write_text("{")
    assert vamc(*compile_arguments(LLAMA, workspace)).status == 0
    assert [path.name for path in workspace.iterdir()] == ["out"]


def test_checkpoints_own_code_needs_trust(vamc: Vamc, copy_checkpoint: CopyCheckpoint, tmp_path: Path) -> None:
    checkpoint = copy_checkpoint("llama-mini")
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "modeling_own_vacc.OwnForCausalLM"}, "insert_slice": True}
    (checkpoint / "config_vacc.json").write_text(json.dumps(config))
    witness = tmp_path / "code-was-run"
    (checkpoint / "modeling_own_vacc.py").write_text(
        "from pathlib import Path\n"
        "from .modeling_llama_vacc import LlamaForCausalLM\n"
        f"Path({str(witness)!r}).touch()\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    pass\n"
    )
    arguments = compile_arguments(
        LLAMA, tmp_path / "w", f"frontend.checkpoint={checkpoint}", "frontend.model_kwargs.model_arch=vacc"
    )
    untrusted = vamc(*arguments)
    assert untrusted.status == 0 and "--trust-checkpoint-code" in untrusted.errors
    assert not witness.exists()
    assert vamc(*arguments, "--trust-checkpoint-code").status == 0
    assert witness.exists()


def test_demo_checkpoints_are_not_touched() -> None:
    """Compiling reads checkpoints and writes nothing beside them."""
    for model in ("baichuan2-13b-mini", "llama-mini"):
        assert not list((CHECKPOINTS / model).glob("*.onnx"))
