"""`vamc run` and `vamc inspect` as a user types them, and what damaged runstreams and wrong prompts get."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e_tools import VAMC, assert_user_error, run_process
from fixture_types import CompileDemo, CopyRunstream, Vamc

from vamc_runtime import LLM, SamplingParams, UserError
from vamc_runtime.manifest import read_manifest

GREEDY = ("--temperature", "0")


def test_text_and_closing_line(vamc: Vamc, demo_runstream: Path) -> None:
    outcome = vamc("run", demo_runstream, "--prompt", "The capital of France", "--max-new-tokens", 24, *GREEDY)
    assert outcome.status == 0, outcome.errors
    text, closing = outcome.output.rstrip("\n").split("\n\n")
    assert "Paris" in text
    assert closing.startswith("prefill ") and "decode " in closing and "tok/s" in closing


def test_several_prompts_come_out_in_order(vamc: Vamc, demo_runstream: Path) -> None:
    prompts = ["The capital of France", "The capital of Italy", "Once"]
    flags = [part for prompt in prompts for part in ("--prompt", prompt)]
    outcome = vamc("run", demo_runstream, *flags, "--max-new-tokens", 12, *GREEDY)
    positions = [outcome.output.index(f"[{i}/3] {prompt}") for i, prompt in enumerate(prompts, 1)]
    assert positions == sorted(positions)


def test_json_is_one_object_and_seeds_repeat(vamc: Vamc, demo_runstream: Path) -> None:
    arguments = ["run", demo_runstream, "--prompt", "The river", "--temperature", 1.0, "--max-new-tokens", 16]
    first, again, other = (vamc(*arguments, "--json", "--seed", seed) for seed in (1, 1, 2))
    texts = [json.loads(outcome.output)["completions"][0] for outcome in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert json.loads(first.output)["statistics"]


@pytest.mark.parametrize("model", ["baichuan2-13b-mini", "baichuan2-7b-mini", "llama-mini"])
def test_chat_answers_the_question(model: str, vamc: Vamc, compile_demo: CompileDemo) -> None:
    question = "What is the capital of France?"
    outcome = vamc("run", compile_demo(model), "--chat", "--prompt", question, "--max-new-tokens", 32, *GREEDY)
    assert "Paris" in outcome.output


def test_inspect(vamc: Vamc, demo_runstream: Path) -> None:
    outcome = vamc("inspect", demo_runstream, "--verify-hash")
    for part in ("LLaMA", "float16", "on this machine", "256 tokens per step", "context 1,024"):
        assert part in outcome.output
    manifest = json.loads(vamc("inspect", demo_runstream, "--json").output)
    assert manifest["tensor_parallel"] == 1 and manifest["toolchain"]["apache-tvm"]


def test_process_that_runs_a_runstream_is_thin(demo_runstream: Path) -> None:
    script = (
        "import sys\n"
        "from vamc_runtime import cli\n"
        f"cli.main(['run', {str(demo_runstream)!r}, '--prompt', 'The', '--max-new-tokens', '4'])\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'transformers', 'tvm', 'yaml', 'vamc_compiler'}\n"
        "print('HEAVY', sorted(heavy & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    outcome = run_process(sys.executable, "-c", script)
    assert "HEAVY []" in outcome.output, outcome.errors


def test_reader_that_goes_away_is_no_error(demo_runstream: Path) -> None:
    command = f"{VAMC} run {demo_runstream} --prompt The --max-new-tokens 200 --ignore-eos | head -c 1"
    outcome = run_process("bash", "-o", "pipefail", "-c", command)
    assert outcome.errors == "" and len(outcome.output) == 1


def rewrite_manifest(path: Path, **changes: Any) -> None:
    """Replace fields of a manifest, as if it had been compiled so."""
    manifest = dataclasses.replace(read_manifest(path), **changes)
    (path / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")


def damage_missing(path: Path) -> list[str]:
    (path / "rank_0" / "params.safetensors").unlink()
    return ["rank_0/params.safetensors", "missing"]


def damage_truncated(path: Path) -> list[str]:
    weights = path / "rank_0" / "params.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    return ["rank_0/params.safetensors", "bytes"]


def damage_content(path: Path) -> list[str]:
    weights = path / "rank_0" / "params.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    return ["params.safetensors", "sha256"]


def damage_schema(path: Path) -> list[str]:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["schema_version"] = 999
    (path / "manifest.json").write_text(json.dumps(manifest))
    return ["schema version 999", "update vamc"]


def damage_manifest(path: Path) -> list[str]:
    (path / "manifest.json").write_text("{")
    return ["manifest.json", "cannot be read"]


def damage_ffi(path: Path) -> list[str]:
    toolchain = read_manifest(path).toolchain
    rewrite_manifest(path, toolchain={**toolchain, "apache-tvm-ffi": "0.0.1"})
    return ["apache-tvm-ffi 0.0.1", "pip install apache-tvm-ffi==0.0.1"]


def damage_features(path: Path) -> list[str]:
    (library,) = read_manifest(path).libraries
    rewrite_manifest(path, libraries=(dataclasses.replace(library, requires=(*library.requires, "avx10_9")),))
    return ["avx10_9", "backend.target.mcpu"]


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing,
        damage_truncated,
        damage_content,
        damage_schema,
        damage_manifest,
        damage_ffi,
        damage_features,
    ],
)
def test_damaged_runstream(
    damage: Callable[[Path], list[str]], vamc: Vamc, demo_runstream: Path, copy_runstream: CopyRunstream
) -> None:
    path = copy_runstream(demo_runstream)
    parts = damage(path)
    assert_user_error(vamc("run", path, "--prompt", "The"), *parts)


def test_not_a_runstream(vamc: Vamc, tmp_path: Path) -> None:
    assert_user_error(vamc("run", tmp_path, "--prompt", "The"), "is not a runstream")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--prompt", "word " * 2000], ["tokens", "1024"]),
        (["--prompt", "The", "--temperature", "-1"], ["temperature", "-1"]),
        (["--prompt", "The", "--top-p", "nan"], ["top_p"]),
        (["--prompt", "The", "--max-new-tokens", "0"], ["max_new_tokens"]),
        (["--prompt", "The", "--kv-cache-tokens", "0"], ["kv_cache_tokens"]),
        (["--prompt", "The", "--kv-cache-tokens", "32"], ["KV pages"]),
        (["--prompt", "The", "--system", "Be brief."], ["--chat"]),
    ],
)
def test_wrong_request(arguments: list[str], parts: list[str], vamc: Vamc, demo_runstream: Path) -> None:
    assert_user_error(vamc("run", demo_runstream, *arguments), *parts)


def test_empty_prompt(vamc: Vamc, compile_demo: CompileDemo) -> None:
    # Baichuan adds no token of its own; LLaMA's beginning-of-text makes an empty text a prompt.
    assert_user_error(vamc("run", compile_demo("baichuan2-7b-mini"), "--prompt", ""), "empty")


@pytest.mark.parametrize("token", [-1, 1 << 20, 1152])
def test_token_outside_the_vocabulary_never_reaches_compiled_code(token: int, demo_runstream: Path) -> None:
    with LLM(demo_runstream) as llm:
        assert token < 0 or token >= llm.manifest.model.vocab_size
        with pytest.raises(UserError, match="token id"):
            llm.generate([[1, 2, token]], SamplingParams(max_new_tokens=1))
        with pytest.raises(UserError, match="token id"):
            llm.logits([token])


def test_runstream_without_tokenizer_takes_token_ids(
    vamc: Vamc, demo_runstream: Path, copy_runstream: CopyRunstream
) -> None:
    path = copy_runstream(demo_runstream)
    files = read_manifest(path).files
    rewrite_manifest(path, files={name: record for name, record in files.items() if not name.startswith("tokenizer/")})
    with LLM(path) as llm:
        assert len(llm.generate([[1, 5, 9]], SamplingParams(max_new_tokens=3))[0].token_ids) == 3
    assert_user_error(vamc("run", path, "--prompt", "The"), "tokenizer")


def test_several_cpu_levels_in_one_runstream(
    vamc: Vamc, tmp_path: Path, demo_runstream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One library for each level over the same weights; a CPU without the newer features runs the older one."""
    from e2e_tools import REPOSITORY

    config = REPOSITORY / "build_in" / "build" / "hf_llama_int8.yaml"
    settings = [f"workspace.path={tmp_path}", "name=two", "backend.target={mcpu: [x86-64-v4, x86-64-v3]}"]
    built = vamc("compile", config, *(part for setting in settings for part in ("--set", setting)))
    assert built.status == 0, built.errors
    from vamc_runtime.machine import cpu_features

    older = frozenset(name for name in cpu_features() if not name.startswith("avx512"))
    texts = []
    for features, level in ((cpu_features(), "x86-64-v4"), (older, "x86-64-v3")):
        if level == "x86-64-v4" and "avx512f" not in features:
            continue
        monkeypatch.setattr("vamc_runtime.runstream.cpu_features", lambda features=features: features)
        assert f"{level} on this machine" in vamc("inspect", tmp_path / "two").output
        texts.append(vamc("run", tmp_path / "two", "--prompt", "The capital of", "--json", *GREEDY).output)
    assert len({json.dumps(json.loads(text)["completions"]) for text in texts}) == 1


def test_runstream_compiled_again_runs_its_new_code(tmp_path: Path) -> None:
    """In one process: the dynamic loader must not take the new library for the old one of the same path."""
    from e2e_tools import REPOSITORY

    from vamc_compiler.compile import CompileRequest, compile_model
    from vamc_compiler.config import load_config

    outputs = []
    for dtype in ("fp16", "int8"):
        config = REPOSITORY / "build_in" / "build" / f"hf_llama_{dtype}.yaml"
        settings = [f"workspace.path={tmp_path}", "name=same", "frontend.shape.input_ids=[[64], [128]]"]
        with LLM(compile_model(CompileRequest(config=load_config(config, settings))).path) as llm:
            outputs.append(llm.logits([1, 5, 6, 7]))
    difference = abs(outputs[0] - outputs[1]).max()
    assert 0 < difference < 1
