"""Properties over the whole schema, read from its dataclasses: a new key is covered by being there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vamc_compiler.config import BuildConfig, effective_settings, load_config
from vamc_compiler.config.constraints import AtLeast, Between
from vamc_compiler.config.fields import (
    SHAPE_KEY,
    Setting,
    free_keys,
    known_keys,
    settings_of,
    split_annotated,
)
from vamc_compiler.quantization import DTYPES, SCHEMES
from vamc_runtime.errors import UserError

WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N"], include_characters="-_.$ "), min_size=1).filter(
    lambda word: word.strip(". ") == word and len(word.encode()) < 100
)
CPU_NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,9}", fullmatch=True)


@st.composite
def lengths(draw: st.DrawFn) -> list[list[int]]:
    prefill = draw(st.integers(1, 64))
    context = draw(st.none() | st.integers(prefill, 128))
    return [[16 * prefill], [] if context is None else [16 * context]]


def values(setting: Setting) -> st.SearchStrategy[Any]:
    """Values that a setting takes, as YAML has them."""
    kind, constraints = split_annotated(setting.kind)
    if setting.name == SHAPE_KEY:
        result: st.SearchStrategy[Any] = lengths()
    elif setting.is_section:
        result = sections(setting.kind)
    elif get_origin(kind) is Literal:
        result = st.sampled_from(get_args(kind))
    elif get_origin(kind) is tuple:
        result = st.lists(CPU_NAMES, unique=True, max_size=3)
    elif get_origin(kind) is Mapping:
        result = st.dictionaries(WORDS, WORDS, max_size=2)
    elif kind is bool:
        result = st.booleans()
    elif kind is int:
        result = st.integers(min(c.minimum for c in constraints if isinstance(c, AtLeast)), 10**6)
    elif kind is float:
        (bounds,) = (c for c in constraints if isinstance(c, Between))
        result = st.floats(bounds.minimum, bounds.maximum, allow_infinity=False)
    else:
        result = WORDS if kind is str else WORDS.map(lambda word: "/absolute/" + word)
    return st.none() | result if setting.optional else result


@st.composite
def sections(draw: st.DrawFn, section: type = BuildConfig) -> dict[str, Any]:
    """A section with its required keys and some of the others."""
    chosen = {}
    for setting in settings_of(section):
        required = setting.name in (
            "name",
            "frontend",
            "backend",
            "checkpoint",
            "shape",
            "dtype",
            "input_ids",
        )
        required |= setting.name == "type" and section.__name__ == "QuantizeConfig"
        required |= setting.name in ("name", "path") and section.__name__ == "DatasetConfig"
        if required or draw(st.booleans()):
            chosen[setting.name] = draw(values(setting))
    return chosen


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    data = draw(sections())
    quantization = (data["frontend"].get("quantize") or {}).get("type")
    dtypes = DTYPES if quantization is None else SCHEMES[quantization].dtypes
    data["backend"]["dtype"] = draw(st.sampled_from(dtypes))
    return data


def escaped(data: Any) -> Any:
    """Data as a config file has it: each `$` doubled."""
    if isinstance(data, dict):
        return {key: escaped(value) for key, value in data.items()}
    return data.replace("$", "$$") if isinstance(data, str) else data


def load_data(data: Any) -> BuildConfig:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "build.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return load_config(path)


def contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(contains(whole.get(key), part[key]) for key in part)
    return bool(whole == part)


@settings(max_examples=80, deadline=None)
@given(configs())
def test_any_config_of_the_schema_loads_and_round_trips(data: Any) -> None:
    config = load_data(escaped(data))
    effective = effective_settings(config)
    assert contains(effective, data)
    assert effective_settings(load_data(escaped(effective))) == effective


FULL = {
    "name": "demo",
    "frontend": {
        "type": "huggingface",
        "checkpoint": "model",
        "shape": {"input_ids": [[256], [1024]]},
        "model_kwargs": {"tp": 2, "b2s": True, "model_arch": "vacc", "align_qkv": True, "norm_head": True},
        "quantize": {"type": "w8a16_gptq", "lm_head": True, "device": "cpu", "calib_args": {"true_sequential": True}},
    },
    "backend": {
        "type": "tvm",
        "dtype": "int8",
        "merge_params": True,
        "remove_params": False,
        "target": {"kind": "llvm", "mcpu": []},
        "compile": {
            "prefill_precision": "bf16",
            "data_type": 0,
            "gather_data_vccl_dsp_enable": True,
            "stream_mode": True,
            "attention_split_num": 1,
            "ffn_split_num": 1,
            "llm_build": True,
            "enable_dense_to_matmul": True,
        },
    },
    "dataset": {"type": "huggingface", "name": "c4", "path": "d", "nsamples": 1, "seqlen": 1},
    "workspace": {"path": "w", "workers": 1, "env_recheck": True, "pyenv": {}},
    "runtime": {"huge_pages": "on"},
    "verify": {
        "when": "off",
        "tokens": 64,
        "text": "t.txt",
        "budget": {
            "mean_kl": 1e-5,
            "same_top": 0.5,
            "perplexity_ratio": 1.5,
            "modeling_error": 0.5,
            "rounding_error": 0.5,
            "block_error": 0.5,
        },
    },
}


def renamed(data: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    """The data with the last part of a dotted key renamed, in place."""
    first, _, rest = key.partition(".")
    if rest:
        return {k: renamed(v, rest, name) if k == first else v for k, v in data.items()}
    return {name if k == first else k: v for k, v in data.items()}


@st.composite
def misspellings(draw: st.DrawFn) -> tuple[str, str]:
    """A dotted key and its last part with one letter dropped, doubled, swapped or replaced."""
    key = draw(st.sampled_from(known_keys()))
    name = key.rpartition(".")[2]
    at = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    swapped = name[:at] + name[at + 1 : at + 2] + name[at] + name[at + 2 :]
    edits = [
        name[:at] + name[at + 1 :],
        name[:at] + letter + name[at:],
        name[:at] + letter + name[at + 1 :],
        swapped,
    ]
    return key, draw(st.sampled_from(edits))


def is_name_elsewhere(name: str) -> bool:
    """Whether a misspelling is the right name of another section, which is then proposed."""
    return any(name.lower() == key.rpartition(".")[2] for key in known_keys())


def test_full_example_has_every_key() -> None:
    assert effective_settings(load_data(FULL)).keys() == FULL.keys()
    for key in known_keys():
        part: Any = FULL
        for name in key.split("."):
            part = part[name]


@settings(max_examples=200, deadline=None)
@given(misspellings())
def test_misspelled_key_is_found_and_the_right_one_named(case: Any) -> None:
    key, wrong = case
    section = key.rpartition(".")[0]
    wrong_key = f"{section}.{wrong}" if section else wrong
    assume(wrong and wrong_key not in known_keys() and wrong not in ("null", "true", "y", "n"))
    with pytest.raises(UserError) as caught:
        load_data(renamed(FULL, key, wrong))
    line = next(
        number
        for number, text in enumerate(yaml.safe_dump(renamed(FULL, key, wrong), sort_keys=False).splitlines(), 1)
        if text.strip().partition(":")[0].strip("'") == wrong and (" " * 2 * key.count(".") + text.strip() == text)
    )
    message = str(caught.value)
    assert f"build.yaml:{line}:{2 * key.count('.') + 1}: {wrong_key}: unknown key" in message
    if len(key.rpartition(".")[2]) > 3:
        assert key in message.partition("did you mean ")[2] or is_name_elsewhere(wrong)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.sampled_from([key for key in known_keys() if key not in free_keys()]))
def test_any_override_loads_or_is_a_user_error(value: Any, key: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "build.yaml"
        path.write_text(yaml.safe_dump(FULL))
        try:
            load_config(path, [f"{key}={value}"])
        except UserError as error:
            assert key in str(error) or "--set" in str(error)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@$,? \n\t", max_size=80).map(str.encode))
def test_any_bytes_load_or_are_a_user_error(data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "build.yaml"
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"build\.yaml"):
            load_config(path)
