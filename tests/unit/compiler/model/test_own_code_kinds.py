"""Modeling files that a checkpoint carries: those in our contract are compiled, others are a reference or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import CONFIGS, SOURCE_CODE, write_config
from torch._subclasses.fake_tensor import FakeTensorMode

from vamc_compiler.graph import make_rank_graph
from vamc_compiler.model.code_files import contract_of
from vamc_compiler.model.registry import find_model
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.trace.rank_module import build_rank
from vamc_compiler.verify.reference import open_reference
from vamc_compiler.verify.reference_code import OwnCodeError
from vamc_compiler.weights.checkpoint import open_checkpoint
from vamc_runtime.errors import UserError

DEMO = Path(__file__).resolve().parents[4] / "build_in" / "checkpoints" / "baichuan2-7b-mini"
TOKENS = [3, 17, 250, 9, 11]

CONTRACTS = {
    "class A(PreTrainedModel):\n  pass": "transformers",
    "class B(transformers.PreTrainedModel):\n  pass\nclass A(B):\n  pass": "transformers",
    "class A(nn.Module):\n  def forward(self, input_ids, attention_mask=None):\n    pass": "transformers",
    "class B(nn.Module):\n  def forward(self, input_ids, page_table, kv_cache):\n    pass\nclass A(B):\n  pass": "step",
    "from .decoder import CausalLM\nclass A(CausalLM):\n  pass": "unknown",
    "class A(A):\n  pass": "unknown",
    "class B:\n  pass": "unknown",
    "class A(": "unknown",
}


@pytest.mark.parametrize(("code", "expected"), CONTRACTS.items())
def test_the_kind_is_read_from_the_code(tmp_path: Path, code: str, expected: str) -> None:
    (tmp_path / "modeling_own_vacc.py").write_text(code)
    assert contract_of(tmp_path / "modeling_own_vacc.py", "A") == expected
    assert contract_of(tmp_path / "none.py", "A") == "unknown"


def with_vacc_code(directory: Path, **changes: Any) -> Path:
    """A demo checkpoint as VACC toolchains prepare them: code for transformers, of the last token's logits only."""
    shutil.copytree(DEMO, directory)
    (directory / "modeling_baichuan7b_vacc.py").write_text((directory / "modeling_baichuan.py").read_text() + SLICE)
    raw = json.loads((directory / "config.json").read_text())
    raw |= {
        "auto_map": {
            "AutoConfig": "configuration_baichuan.BaichuanConfig",
            "AutoModelForCausalLM": "modeling_baichuan7b_vacc.SlicedForCausalLM",
        },
        "_attn_implementation": "eager",
        "insert_slice": True,
        "rank_num": 2,
        **changes,
    }
    (directory / "config_vacc.json").write_text(json.dumps(raw))
    return directory


SLICE = """

class SlicedForCausalLM(BaichuanForCausalLM):
    def forward(self, input_ids=None, **options):
        logits = super().forward(input_ids=input_ids, **options)[0]
        logits = logits[..., : logits.shape[-1] // getattr(self.config, "rank_num", 1)]
        return (logits[:, -1:] if getattr(self.config, "insert_slice", 0) else logits,)

    def quantize(self, bits):
        try:
            from .quantizer_vacc import quantize_online
        except ImportError:
            raise ImportError("not beside this file, and never asked for")
        return quantize_online(self, bits)
"""


def test_code_for_transformers_is_the_reference_and_not_compiled(tmp_path: Path) -> None:
    directory = with_vacc_code(tmp_path / "checkpoint")
    source = find_model(directory, SOURCE_CODE, trust_checkpoint_code=True)
    assert source.file == "modeling_baichuan7b_vacc.py" and source.directories == (SOURCE_CODE,)
    assert not source.is_own_code
    (warning,) = source.warnings
    assert "written for transformers" in warning and "compared with" in warning
    runs = []
    for trust in (False, True):
        reference = open_reference(
            directory, open_checkpoint(directory), trust_checkpoint_code=trust, cache_bytes=1 << 30
        )
        assert reference is not None
        runs.append((reference.description, reference.run(TOKENS).logits))
    (plain, expected), (own, found) = runs
    assert (plain, own) == ("plain Baichuan reference", "the checkpoint's own modeling_baichuan7b_vacc.py")
    assert found.shape == expected.shape  # every token's, although the code cuts by default
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_without_trust_it_is_ignored(tmp_path: Path) -> None:
    source = find_model(with_vacc_code(tmp_path / "checkpoint"), SOURCE_CODE, trust_checkpoint_code=False)
    assert "--trust-checkpoint-code" in source.warnings[0]


def test_code_for_transformers_that_does_not_run_is_told(tmp_path: Path) -> None:
    directory = with_vacc_code(tmp_path / "checkpoint")
    path = directory / "modeling_baichuan7b_vacc.py"
    path.write_text("import a_package_of_the_card\n" + path.read_text())
    with pytest.raises(OwnCodeError, match="a_package_of_the_card"):
        open_reference(directory, open_checkpoint(directory), trust_checkpoint_code=True, cache_bytes=1 << 20)


def own(directory: Path, code: str, **changes: Any) -> Path:
    """A tiny llama with a modeling file of its own."""
    write_config(directory, "llama")
    mapped = {"AutoModelForCausalLM": "modeling_own_vacc.Own"}
    (directory / "config_vacc.json").write_text(json.dumps(CONFIGS["llama"] | {"auto_map": mapped} | changes))
    (directory / "modeling_own_vacc.py").write_text(code)
    return directory


HEAD = "import torch\nfrom torch import nn\nfrom .modeling_llama_vacc import LlamaForCausalLM\n"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (
            "from transformers.modeling_utils import PreTrainedModel as Base\nclass Own(Base):\n  pass",
            "is a PreTrainedModel",
        ),
        (
            "class Own:\n  def __init__(self, config):\n    raise RuntimeError('broken here')",
            "RuntimeError: broken here",
        ),
        ("class Own:\n  def __init__(self, config):\n    pass", "builds a Own, not a torch module"),
        (
            "class Own(nn.Module):\n  def __init__(self, config):\n    super().__init__()\n",
            "forward does not take input_ids",
        ),
        (
            "class Own(LlamaForCausalLM):\n  def __init__(self, config):\n    super().__init__(config)\n"
            "    self.more = nn.Linear(2, 2)",
            "more.weight has no origin",
        ),
        ("Own = 3", "'int' object is not callable"),
    ],
)
def test_own_code_that_cannot_be_built_is_told(tmp_path: Path, code: str, found: str) -> None:
    source = find_model(own(tmp_path, HEAD + code), SOURCE_CODE, trust_checkpoint_code=True)
    with pytest.raises(UserError) as caught, FakeTensorMode():
        build_rank(source, source.config.for_rank(0, 1), ModelPrecision())
    assert found in caught.value.found and "modeling_own_vacc.py" in caught.value.found


def test_own_code_that_cannot_be_traced_is_told(tmp_path: Path) -> None:
    code = HEAD + (
        "class Own(LlamaForCausalLM):\n"
        "  def forward(self, input_ids, position_ids, seq_ids, page_table, logits_index, kv_cache):\n"
        "    raise ValueError('not here')\n"
    )
    source = find_model(own(tmp_path, code), SOURCE_CODE, trust_checkpoint_code=True)
    with pytest.raises(UserError, match=r"modeling_own_vacc\.py cannot be traced"):
        make_rank_graph(source, 1, ModelPrecision(), 0)


@pytest.mark.parametrize("name", [".", "a/b.C", "x.", ".C", "a b.C", "\0.C", "y" * 5000 + ".C"])
def test_names_of_classes_that_are_none(tmp_path: Path, name: str) -> None:
    directory = own(tmp_path, HEAD, auto_map={"AutoModelForCausalLM": name})
    with pytest.raises(UserError):
        find_model(directory, SOURCE_CODE, trust_checkpoint_code=True).model_class()
    (directory / "config_vacc.json").rename(directory / "config.json")
    find_model(directory, SOURCE_CODE, trust_checkpoint_code=True)  # with a warning: the built-in file is compiled


def test_a_checkpoint_whose_name_is_too_long() -> None:
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        find_model(Path("/" + "x" * 5000), SOURCE_CODE, trust_checkpoint_code=False)


def test_own_config_is_read_with_types(tmp_path: Path) -> None:
    for changes in (
        {"auto_map": 5},
        {"auto_map": {"AutoModelForCausalLM": [1]}},
        {"hidden_size": "24"},
        {"auto_map": None},
    ):
        with pytest.raises(UserError, match=r"config_vacc\.json"):
            find_model(own(tmp_path, HEAD, **changes), SOURCE_CODE, trust_checkpoint_code=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: [", "cannot be read"),
        ("a: 1", "no list of models"),
        ("- 3", "no list of models"),
        ("- {name: x, model_type: llama, file: f}", "no text for class"),
        ("- {name: x, model_type: llama, file: f, class: C, where: {a: 1}}", "no list for where"),
    ],
)
def test_a_damaged_models_yaml(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "models.yaml").write_text(text)
    with pytest.raises(UserError, match=found):
        find_model(write_config(tmp_path / "model", "llama"), tmp_path, trust_checkpoint_code=False)


def test_a_row_says_what_its_file_computes_by_itself(tmp_path: Path) -> None:
    changes = {"attention_bias": True, "sliding_window": 16, "rope_scaling": {"type": "longrope", "factor": 2}}
    model = write_config(tmp_path / "model", "llama", **changes)
    row = "name: N, model_type: llama, file: f, class: C"
    for more, right in (("", False), (", computes: [attention_bias, sliding_window, rope_type]", True)):
        (tmp_path / "models.yaml").write_text(f"- {{{row}{more}}}")
        if right:
            assert find_model(model, tmp_path, trust_checkpoint_code=False).label == "N"
        else:
            with pytest.raises(UserError, match="attention_bias"):
                find_model(model, tmp_path, trust_checkpoint_code=False)


def test_conditions_of_a_row_are_named_with_their_values(tmp_path: Path) -> None:
    row = "{name: N, model_type: llama, file: f, class: C, lacks: [extra], where: {hidden_size: [32, 64]}}"
    (tmp_path / "models.yaml").write_text(f"- {row}")
    with pytest.raises(UserError) as caught:
        find_model(write_config(tmp_path / "model", "llama", extra="x"), tmp_path, trust_checkpoint_code=False)
    assert "has the model_type llama, and the modeling file of N does not compute this one" in caught.value.found
    assert caught.value.found.splitlines()[1:] == [
        '  - it has extra ("x" (a text))',
        "  - hidden_size is 24 (a whole number), not 32 or 64",
    ]
