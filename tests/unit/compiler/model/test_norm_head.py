"""Which head a Baichuan has: read from what the checkpoint says, asked for where it says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import SOURCE_CODE, write_config

from vamc_compiler.model.registry import find_model
from vamc_compiler.verify.reference_baichuan import published_norm_head
from vamc_compiler.verify.reference_code import build_original
from vamc_runtime.errors import UserError

CODE = """
import torch
from torch import nn

class NormHead(nn.Module):
    pass

class {name}(nn.Module):
    def __init__(self, config):
        super().__init__()
        # self.lm_head = NormHead(config)
        self.lm_head = {head}(config.hidden_size, config.vocab_size, bias=False)
"""
AUTO_MAP = {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"}


def checkpoint(directory: Path, head: str = "", **changes: Any) -> Path:
    """A tiny Baichuan-7B; `head` is what its code makes the head of, empty for no code."""
    name = changes.pop("class_name", "BaichuanForCausalLM")
    changes = {"z_loss_weight": None} | changes
    write_config(directory, "baichuan 7B", **changes)
    if head:
        (directory / "modeling_baichuan.py").write_text(CODE.format(name=name, head=head))
    return directory


def decided(directory: Path, setting: bool | None = None) -> bool:
    source = find_model(directory, SOURCE_CODE, trust_checkpoint_code=False, norm_head=setting)
    return source.config.normalize_head


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"head": "NormHead", "auto_map": AUTO_MAP}, True),
        ({"head": "nn.Linear", "auto_map": AUTO_MAP}, False),
        ({"head": "torch.nn.Linear", "auto_map": AUTO_MAP, "vocab_size": 125696}, False),
        ({"head": "NormHead", "auto_map": AUTO_MAP, "vocab_size": 64000}, True),
        ({"head": "NormHead"}, True),
        ({"z_loss_weight": 0}, True),
        ({"z_loss_weight": 0, "vocab_size": 64000}, True),
        ({"architectures": ["BaiChuanForCausalLM"]}, False),
        ({"architectures": ["BaiChuanForCausalLM"], "vocab_size": 64001}, False),
        ({"auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM"}}, False),
        ({"head": "Linear", "class_name": "BaiChuanForCausalLM", "architectures": ["BaiChuanForCausalLM"]}, False),
    ],
)
def test_the_checkpoint_decides_whatever_its_vocabulary(
    tmp_path: Path, options: dict[str, Any], expected: bool
) -> None:
    directory = checkpoint(tmp_path, **options)
    assert decided(directory) is expected
    with pytest.raises(UserError, match=r"frontend\.model_kwargs\.norm_head is"):
        decided(directory, not expected)
    raw = {key: value for key, value in options.items() if key not in ("head", "class_name")}
    assert published_norm_head(directory, raw) is expected  # the reference's own reading


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"vocab_size": 64000},
        {"vocab_size": 125696},
        {"head": "make_head", "auto_map": AUTO_MAP},
        {"head": "nn.Linear", "auto_map": AUTO_MAP, "z_loss_weight": 0},
        {"z_loss_weight": 0, "architectures": ["BaiChuanForCausalLM"]},
        {"auto_map": AUTO_MAP},
    ],
)
def test_the_user_is_asked(tmp_path: Path, options: dict[str, Any]) -> None:
    directory = checkpoint(tmp_path, **options)
    with pytest.raises(UserError, match="does not say which Baichuan it is") as caught:
        decided(directory)
    assert "--set frontend.model_kwargs.norm_head=true" in caught.value.fix
    assert [decided(directory, setting) for setting in (True, False)] == [True, False]


def test_code_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path, auto_map=AUTO_MAP)
    for code in (b"class :", b"\0", b"\xff\xfe", b"(" * 100_000):
        (directory / "modeling_baichuan.py").write_bytes(code)
        with pytest.raises(UserError, match="does not say"):
            decided(directory)


def test_the_reference_does_not_guess(tmp_path: Path) -> None:
    for vocab_size in (64000, 125696, 50):
        directory = checkpoint(tmp_path, vocab_size=vocab_size)
        raw = json.loads((directory / "config.json").read_text())
        with pytest.raises(UserError, match="whether its head is normalised"):
            build_original(directory, raw, trust_checkpoint_code=False)
        for setting in (True, False):
            original = build_original(directory, raw, trust_checkpoint_code=False, norm_head=setting)
            assert original is not None
            assert (type(original.model.lm_head).__name__ == "NormHead") is setting


def test_the_setting_is_for_baichuan(tmp_path: Path) -> None:
    write_config(tmp_path, "llama")
    with pytest.raises(UserError, match="is a LLaMA"):
        find_model(tmp_path, SOURCE_CODE, trust_checkpoint_code=False, norm_head=True)
