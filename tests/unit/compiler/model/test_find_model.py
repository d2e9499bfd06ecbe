"""Which modeling file a checkpoint gets, and that a checkpoint's own code runs only when it is trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CONFIGS, SOURCE_CODE, tiny_source, write_config
from torch._subclasses.fake_tensor import FakeTensorMode

from vamc_compiler.model.registry import find_model
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.trace.rank_module import build_rank, list_parameters
from vamc_runtime.errors import UserError


@pytest.mark.parametrize(
    ("family", "file", "class_name"),
    [
        ("llama", "modeling_llama_vacc.py", "LlamaForCausalLM"),
        ("baichuan 7B", "modeling_baichuan7b_vacc.py", "BaichuanForCausalLM"),
        ("baichuan 13B", "modeling_baichuan13b_vacc.py", "BaichuanForCausalLM"),
    ],
)
def test_rows(tmp_path: Path, family: str, file: str, class_name: str) -> None:
    source = tiny_source(tmp_path, family)
    assert (source.file, source.class_name) == (file, class_name)
    assert source.directories == (SOURCE_CODE,)
    assert source.warnings == ()
    factory = source.model_class()
    assert factory.__name__ == class_name
    assert factory.__module__.endswith(Path(file).stem)


def test_the_two_sizes_of_baichuan_differ_by_max_position_embeddings(tmp_path: Path) -> None:
    both = tiny_source(tmp_path, "baichuan 13B", max_position_embeddings=128)
    assert "7B" in both.label and both.file == "modeling_baichuan7b_vacc.py"
    config = CONFIGS["baichuan 7B"] | {"max_position_embeddings": None, "model_max_length": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))  # null counts as missing
    assert "13B" in find_model(tmp_path, SOURCE_CODE, trust_checkpoint_code=False).label


def test_the_type_from_auto_map(tmp_path: Path) -> None:
    auto_map = {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"}
    assert "13B" in tiny_source(tmp_path, "baichuan 13B", model_type=None, auto_map=auto_map).label


@pytest.mark.parametrize(
    ("key", "right", "wrong"),
    [("attention_bias", False, True), ("mlp_bias", False, True), ("partial_rotary_factor", 1.0, 0.5)],
)
def test_llama_that_the_modeling_file_would_get_wrong_is_refused(
    tmp_path: Path, key: str, right: object, wrong: object
) -> None:
    assert tiny_source(tmp_path / "right", "llama", **{key: right}).label.startswith("LLaMA")
    with pytest.raises(UserError, match="what the modeling file of LLaMA 1, 2, 3 does not compute") as caught:
        tiny_source(tmp_path / "wrong", "llama", **{key: wrong})
    assert f"{key} {str(wrong).lower()}" in caught.value.found
    assert f", not {str(right).lower()}" in caught.value.found


def test_an_unknown_architecture_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        tiny_source(tmp_path, "llama", model_type="mamba", architectures=["MambaForCausalLM"])
    assert "model_type 'mamba', architectures ['MambaForCausalLM']" in caught.value.found
    assert caught.value.expected.splitlines() == [
        "one of",
        "  - Baichuan 13B, Baichuan2 13B (ALiBi) (model_type baichuan, without max_position_embeddings)",
        "  - Baichuan 7B, Baichuan2 7B (rotary) (model_type baichuan, with max_position_embeddings)",
        "  - LLaMA 1, 2, 3 (model_type llama)",
    ]
    assert "add a row to models.yaml" in caught.value.fix


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="is not a directory"):
            find_model(path, SOURCE_CODE, trust_checkpoint_code=False)


OWN_CODE = '''
from .modeling_llama_vacc import LlamaForCausalLM
from pathlib import Path

Path(__file__).with_name("executed").touch()

class OwnForCausalLM(LlamaForCausalLM):
    """Builds on the built-in file beside it, as it were."""
'''


def own_checkpoint(directory: Path, code: str = OWN_CODE, **changes: Any) -> Path:
    """A tiny llama that carries `config_vacc.json` and a modeling file."""
    write_config(directory, "llama")
    mapped = {"AutoModelForCausalLM": "modeling_own_vacc.OwnForCausalLM"}
    raw = CONFIGS["llama"] | {"num_hidden_layers": 1, "auto_map": mapped} | changes
    (directory / "config_vacc.json").write_text(json.dumps(raw))
    (directory / "modeling_own_vacc.py").write_text(code)
    return directory


def test_own_code_is_ignored_without_trust(tmp_path: Path) -> None:
    source = find_model(own_checkpoint(tmp_path), SOURCE_CODE, trust_checkpoint_code=False)
    assert source.file == "modeling_llama_vacc.py"
    assert source.directories == (SOURCE_CODE,)
    assert source.config.num_hidden_layers == 2  # config.json's
    (warning,) = source.warnings
    assert str(tmp_path / "config_vacc.json") in warning and "--trust-checkpoint-code" in warning
    source.model_class()
    assert not (tmp_path / "executed").exists()


def test_own_code_wins_with_trust_and_builds_on_the_built_in_files(tmp_path: Path) -> None:
    source = find_model(own_checkpoint(tmp_path), SOURCE_CODE, trust_checkpoint_code=True)
    assert source.warnings == ()
    assert source.config.num_hidden_layers == 1  # config_vacc.json's
    assert not (tmp_path / "executed").exists()
    with FakeTensorMode():
        precision = ModelPrecision(quantization="int8_per_channel")
        model = build_rank(source, source.config.for_rank(0, 1), precision)
    assert (tmp_path / "executed").exists()
    assert type(model).__name__ == "OwnForCausalLM"
    names = {spec.name for spec in list_parameters(model)}
    assert "model.layers.0.self_attn.q_proj.quant_w" in names
    assert isinstance(model, torch.nn.Module)


def test_own_config_without_a_modeling_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config_vacc\.json names no modeling file"):
        find_model(own_checkpoint(tmp_path, auto_map={}), SOURCE_CODE, trust_checkpoint_code=True)
    missing = own_checkpoint(tmp_path / "missing")
    (missing / "modeling_own_vacc.py").unlink()
    with pytest.raises(UserError, match=r"there is no modeling file 'modeling_own_vacc\.py' in .*missing"):
        find_model(missing, SOURCE_CODE, trust_checkpoint_code=True).model_class()


def test_own_file_without_the_class(tmp_path: Path) -> None:
    source = find_model(own_checkpoint(tmp_path, "x = 1\n"), SOURCE_CODE, trust_checkpoint_code=True)
    with pytest.raises(UserError, match=r"modeling_own_vacc\.py has no class 'OwnForCausalLM'"):
        source.model_class()


def test_a_stored_head_is_the_head(tmp_path: Path) -> None:
    """Whatever config.json says of tied weights; the original does the same."""
    source = tiny_source(tmp_path, "llama", tie_word_embeddings=True)
    for names, tensor in (({"lm_head.weight"}, "lm_head.weight"), ((), "model.embed_tokens.weight")):
        with torch.device("meta"):
            model = build_rank(source, source.with_tensors(names).config.for_rank(0, 1), ModelPrecision())
        (head,) = (spec for spec in list_parameters(model) if spec.name == "lm_head.weight")
        assert head.tensors == (tensor,)
    assert source.with_tensors(()) is source


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    """transformers adds it to the weights beside it where PEFT is installed, so that the folder means two models."""
    write_config(tmp_path, "llama")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds an adapter") as caught:
        find_model(tmp_path, SOURCE_CODE, trust_checkpoint_code=False)
    assert "merge_and_unload" in caught.value.fix
