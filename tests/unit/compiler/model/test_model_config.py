"""config.json in both spellings, and what is said about one that does not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import CONFIGS

from vamc_compiler.model.config import ModelConfig, model_config_from
from vamc_compiler.model.json_file import read_json
from vamc_runtime.errors import UserError

PATH = Path("model/config.json")


def parse(**changes: Any) -> ModelConfig:
    """The tiny llama's configuration, changed; a value of `...` leaves the key out."""
    raw = {key: value for key, value in (CONFIGS["llama"] | changes).items() if value is not ...}
    return model_config_from(raw, PATH)


def message(**changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        parse(**changes)
    return str(caught.value)


def test_sizes() -> None:
    config = parse(tie_word_embeddings=True, extra={"kept": 1})
    assert (config.model_type, config.vocab_size, config.hidden_size) == ("llama", 50, 24)
    assert (config.intermediate_size, config.num_hidden_layers) == (20, 2)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (6, 2, 8)
    assert (config.rms_norm_eps, config.max_position_embeddings) == (1e-6, 128)
    assert config.tie_word_embeddings and config.insert_slice
    assert config.raw["extra"] == {"kept": 1}
    assert (config.rank_num, config.rank_index) == (1, 0)


def test_a_rank_is_a_new_object() -> None:
    config = parse()
    rank = config.for_rank(1, 3)
    assert (rank.rank_index, rank.rank_num) == (1, 3)
    assert (config.rank_index, config.rank_num) == (0, 1)


@pytest.mark.parametrize("head_dim", [..., None])
def test_head_width_from_the_hidden_size(head_dim: Any) -> None:
    """Published files leave head_dim out or set it to null."""
    assert parse(head_dim=head_dim).head_dim == 4
    assert "hidden_size 25, which num_attention_heads 6 does not divide" in message(head_dim=head_dim, hidden_size=25)


def test_an_explicit_head_width_needs_no_division() -> None:
    assert parse(hidden_size=25).head_dim == 8


@pytest.mark.parametrize("heads", [..., None])
def test_without_grouping_every_head_has_its_own_key(heads: Any) -> None:
    assert parse(num_key_value_heads=heads).num_key_value_heads == 6


def test_context_length_of_baichuan() -> None:
    config = parse(model_type="baichuan", max_position_embeddings=..., model_max_length=4096)
    assert config.max_position_embeddings == 4096


def test_rotary_base() -> None:
    assert parse().rope_theta == 10000.0
    assert parse(rope_theta=5e5).rope_theta == 5e5
    assert parse(rope_parameters={"rope_type": "default", "rope_theta": 1e6}).rope_theta == 1e6
    assert parse(rope_parameters={"rope_type": "default"}, rope_theta=3e4).rope_theta == 3e4


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ],
    ids=str,
)
def test_rotary_scaling_in_every_spelling(spelling: dict[str, Any]) -> None:
    assert parse(**spelling).rope_scaling == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    "spelling",
    [
        {},
        {"rope_scaling": None},
        {"rope_scaling": {"type": "default"}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {"rope_parameters": {"rope_theta": 1e4}},
    ],
    ids=str,
)
def test_unscaled_rotary_in_every_spelling(spelling: dict[str, Any]) -> None:
    assert parse(**spelling).rope_scaling is None


@pytest.mark.parametrize(
    "key", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
)
def test_missing_and_wrong_sizes(key: str) -> None:
    assert message(**{key: ...}).startswith(f"{PATH} lacks {key!r}")
    for wrong in (0, -1, 2.5, "12", True):
        shown = {"12": '"12"', "True": "true"}.get(str(wrong), str(wrong))
        assert f"{PATH} has {shown} (a " in message(**{key: wrong})
        assert f" for {key!r}" in message(**{key: wrong})


def test_missing_context_length() -> None:
    text = message(model_type="baichuan", max_position_embeddings=...)
    assert "has neither 'max_position_embeddings' nor 'model_max_length'" in text


@pytest.mark.parametrize("other", [{}, {"max_sequence_length": 512}, {"model_max_length": 512}])
def test_a_llama_without_a_context_length_has_that_of_transformers(other: dict[str, Any]) -> None:
    """Conversions of the first LLaMA leave it out (decapoda-research/llama-7b-hf)."""
    from transformers import LlamaConfig

    assert parse(max_position_embeddings=..., **other).max_position_embeddings == LlamaConfig().max_position_embeddings
    assert "has null for 'max_position_embeddings'" in message(max_position_embeddings=None)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "does not exist"),
        ("{", "cannot be read"),
        ("[1]", "holds a list"),
        ("\udcff", "not UTF-8"),
        ("", "cannot be read"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
        ('{"a": ' + "[" * 100000 + "]" * 100000 + "}", "nested too deeply"),
        ('{"a": 1, "a": 2}', "two different values for 'a'"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "Git LFS"),
    ],
)
def test_reading_json(tmp_path: Path, content: str | None, found: str) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=found) as caught:
        read_json(path, "the model configuration")
    assert str(path) in caught.value.found and "the model configuration" in caught.value.expected
