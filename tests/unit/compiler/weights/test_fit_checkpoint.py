"""A checkpoint's names against a model's: what transformers loads is found, what is left over is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stored_bytes import read
from tiny_models import SOURCE_CODE

from vamc_compiler.model.registry import EMBEDDING_TENSOR, HEAD_TENSOR, find_model
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.trace.rank_module import list_ranks
from vamc_compiler.verify.reference import open_reference
from vamc_compiler.weights.checkpoint import open_checkpoint
from vamc_compiler.weights.fit import Fitted, fit_checkpoint
from vamc_runtime.errors import UserError

State = dict[str, torch.Tensor]
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def save_llama(directory: Path, **changes: Any) -> Path:
    """A random LLaMA as transformers saves it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=24,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=50,
        max_position_embeddings=64,
        **changes,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def edit(directory: Path, change: Callable[[State], State]) -> Path:
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return directory


def fit(directory: Path, num_ranks: int = 1) -> Fitted:
    return fit_checkpoint(
        find_model(directory, SOURCE_CODE, trust_checkpoint_code=False),
        open_checkpoint(directory),
        lambda source: list_ranks(source, num_ranks, ModelPrecision()),
    )


def refusal(directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        fit(directory)
    return str(caught.value)


def assert_as_transformers(directory: Path) -> Fitted:
    """Every parameter comes from the tensor that from_pretrained has for it, and the reference computes its logits."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    loaded = model.state_dict()
    fitted = fit(directory)
    tensors = {spec.name: spec.tensors for spec in fitted.ranks[0] if spec.tensors}
    assert tensors.keys() <= loaded.keys()
    for name, (tensor,) in tensors.items():
        assert torch.equal(read(fitted.checkpoint.tensors[tensor]).float(), loaded[name]), name
    reference = open_reference(directory, fitted.checkpoint, trust_checkpoint_code=False, cache_bytes=1 << 30)
    assert reference is not None
    with torch.inference_mode():
        logits = model(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(torch.from_numpy(reference.run(TOKENS).logits), logits)
    return fitted


def without_prefix(state: State) -> State:
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


def with_prefix(state: State) -> State:
    return {name if name.startswith("model.") else f"model.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied"])
@pytest.mark.parametrize("change", [dict, without_prefix, with_prefix])
def test_prefixes(tmp_path: Path, change: Callable[[State], State], tied: bool) -> None:
    directory = edit(save_llama(tmp_path, tie_word_embeddings=tied), change)
    stored = set(load_file(directory / "model.safetensors"))
    fitted = assert_as_transformers(directory)
    names = fitted.checkpoint.tensors
    assert {fitted.checkpoint.stored_names.get(name, name) for name in names} == stored


def renamed_embedding(state: State) -> State:
    return {HEAD_TENSOR if name == EMBEDDING_TENSOR else name: tensor for name, tensor in state.items()}


def both_equal(state: State) -> State:
    return {**state, HEAD_TENSOR: state[EMBEDDING_TENSOR].clone()}


def both_different(state: State) -> State:
    return {**state, HEAD_TENSOR: state[EMBEDDING_TENSOR].flip(0) * 2}


@pytest.mark.parametrize("prefix", [dict, without_prefix])
@pytest.mark.parametrize("change", [dict, renamed_embedding, both_equal, both_different])
def test_tied_heads(tmp_path: Path, change: Callable[[State], State], prefix: Callable[[State], State]) -> None:
    directory = save_llama(tmp_path, tie_word_embeddings=True)
    assert HEAD_TENSOR not in load_file(directory / "model.safetensors")
    assert_as_transformers(edit(edit(directory, change), prefix))


def test_a_head_that_is_neither_stored_nor_tied(tmp_path: Path) -> None:
    directory = save_llama(tmp_path)
    edit(directory, lambda state: {name: tensor for name, tensor in state.items() if name != HEAD_TENSOR})
    assert "lm_head.weight is missing" in refusal(directory)


def test_a_tensor_under_both_names(tmp_path: Path) -> None:
    directory = edit(save_llama(tmp_path), lambda state: {**state, "norm.weight": torch.ones(24)})
    text = refusal(directory)
    assert "norm.weight and" in text or "and norm.weight" in text
    assert "expected: one tensor for model.norm.weight" in text


LAYER = "model.layers.0"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (f"{LAYER}.self_attn.q_proj.bias", " (config.json does not declare attention_bias)"),
        (f"{LAYER}.self_attn.o_proj.bias", " (config.json does not declare attention_bias)"),
        (f"{LAYER}.mlp.up_proj.bias", " (config.json does not declare mlp_bias)"),
        ("model.layers.2.mlp.up_proj.weight", " (config.json has num_hidden_layers 2)"),
        (f"{LAYER}.self_attn.q_norm.weight", ""),
        (f"{LAYER}.mlp.up_proj.scales", ""),
        ("lm_head.bias", ""),
        ("medusa_head.0.weight", ""),
        ("layers.1.self_attn.v_proj.lora_A.weight", ""),
        ("rotary_emb.inv_freq.weight", ""),
    ],
)
def test_stored_and_not_used(tmp_path: Path, name: str, hint: str) -> None:
    directory = edit(save_llama(tmp_path), lambda state: {**state, name: torch.ones(24)})
    assert f"do not fit its config.json:\n  {name} is stored, but not used{hint}\n" in refusal(directory)


def test_a_name_never_acts_on_the_terminal(tmp_path: Path) -> None:
    directory = edit(save_llama(tmp_path), lambda state: {**state, "\x1b[2J" + "x" * 9999: torch.ones(1)})
    text = refusal(directory)
    assert "\x1b" not in text and r"\x1b[2J" in text and len(text) < 1000


def test_many_that_are_not_used(tmp_path: Path) -> None:
    directory = edit(save_llama(tmp_path), lambda state: {**state, **{f"x.{i}": torch.ones(1) for i in range(20)}})
    text = refusal(directory)
    assert text.count("is stored, but not used") == 8 and "... and 12 more" in text


@pytest.mark.parametrize(
    "name",
    [f"{LAYER}.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq", "rotary_emb.inv_freq", "model.causal_mask"],
)
def test_buffers_that_mean_nothing(tmp_path: Path, name: str) -> None:
    directory = edit(save_llama(tmp_path), lambda state: {**state, name: torch.ones(3)})
    assert_as_transformers(directory)


def test_a_modeling_file_may_leave_tensors_out(tmp_path: Path) -> None:
    """Under the name that transformers' classes have for it."""
    directory = edit(save_llama(tmp_path / "checkpoint"), lambda state: {**state, "mtp.0.weight": torch.ones(3)})
    source_code = tmp_path / "source_code"
    shutil.copytree(SOURCE_CODE, source_code)
    file = source_code / "modeling_llama_vacc.py"
    text = file.read_text(encoding="utf-8")
    head, _, rest = text.partition("class LlamaForCausalLM(")
    line, _, body = rest.partition("\n")
    ignored = '    _keys_to_ignore_on_load_unexpected = [r"^mtp\\."]\n'
    file.write_text(f"{head}class LlamaForCausalLM({line}\n{ignored}{body}", encoding="utf-8")
    fitted = fit_checkpoint(
        find_model(directory, source_code, trust_checkpoint_code=False),
        open_checkpoint(directory),
        lambda source: list_ranks(source, 2, ModelPrecision()),
    )
    assert len(fitted.ranks) == 2
    assert "mtp.0.weight is stored, but not used" in refusal(directory)


@pytest.mark.parametrize("name", ["llama-mini", "baichuan2-7b-mini", "baichuan2-13b-mini"])
def test_demo_checkpoints_fit(name: str) -> None:
    directory = SOURCE_CODE.parent / "build_in" / "checkpoints" / name
    fitted = fit(directory)
    assert fitted.checkpoint.stored_names == {}
    assert fitted.source.config.tie_word_embeddings == json.loads((directory / "config.json").read_text()).get(
        "tie_word_embeddings", False
    )
