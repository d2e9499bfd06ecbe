"""config.json of a LLaMA, values and keys mutated; what is accepted must be what transformers makes of the file."""

from __future__ import annotations

import json
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.target import Target
from vamc_compiler.model.registry import find_model
from vamc_compiler.model.source_code import load_module, load_package
from vamc_runtime.errors import UserError

SOURCE_CODE = Path(__file__).resolve().parents[3] / "source_code"
BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "pretraining_tp": 1,
    "torch_dtype": "bfloat16",
}
ROPES: tuple[dict[str, Any], ...] = (
    {"type": "linear", "factor": 2.0},
    {"rope_type": "linear", "factor": 3.0, "rope_theta": 5e5},
    {"rope_type": "dynamic", "factor": 2},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4, "rope_theta": 1e6},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    {"type": "yarn", "factor": 2.0, "beta_fast": 16, "mscale": 0.7, "mscale_all_dim": 1.1, "truncate": False},
    {"rope_type": "default", "rope_theta": 2e4},
    {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 2},
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, -1, 8, 64, 10**6, 10**30, 0.0, 0.5, 1.0, 2.0, -1.5, 1e-30, 1e300),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "silu",
        "swish",
        "gelu",
        "4",
        "llama",
        "\ud800",
        "\x1b[31m",
        "default",
        "linear",
    ),
    *([], [1], [None], {}, {"a": 1}, {"rope_theta": 1e4}, [[]] * 3, "y" * 3000),
)
MORE_KEYS = (
    *("rope_parameters", "partial_rotary_factor", "original_max_position_embeddings", "sliding_window", "layer_types"),
    *(
        "quantization_config",
        "auto_map",
        "insert_slice",
        "model_max_length",
        "logit_scale",
        "is_causal",
        "bias",
        "unknown",
    ),
)


@dataclass(frozen=True)
class Context:
    """What cases share."""

    folder: Path
    rotary: Any
    """The module rotary.py."""


def prepare(folder: Path) -> Context:
    """Import what is compared with."""
    import transformers

    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    warnings.simplefilter("ignore")
    return Context(folder, load_module(load_package([SOURCE_CODE]), "rotary.py"))


def run(context: Context, rng: random.Random) -> None:
    """Read one mutated config.json."""
    raw = {key: value for key, value in BASE.items() if rng.random() > 0.01}
    if rng.random() < 0.5:
        raw[rng.choice(("rope_scaling", "rope_parameters"))] = dict(rng.choice(ROPES))
    if rng.random() < 0.1:
        raw["rope_parameters"] = dict(rng.choice(ROPES))
    for _ in range(rng.choice((0, 1, 1, 2))):
        _mutate(raw, rng)
    data = json.dumps(raw).encode()
    for _ in range(rng.choice((0, 0, 0, 0, 0, 1, 4))):
        at = rng.randrange(len(data) + 1)
        piece = rng.choice((b"", b"[" * 50_000, b"9" * 5000, b"\xff", b"\0", bytes([rng.randrange(256)]), b",", b'"'))
        data = data[:at] + piece + data[at + rng.randrange(2) :]
    (context.folder / "config.json").write_bytes(data)
    try:
        source = find_model(context.folder, SOURCE_CODE, trust_checkpoint_code=False)
    except UserError as error:
        text = str(error)
        assert not any(ord(character) < 32 and character != "\n" for character in text), repr(text)
        text.encode("utf-8")
        assert len(text) < 10_000, "a message of that size helps nobody"
        raise
    _compare(context, source.config, json.loads(data))


def _mutate(raw: dict[str, Any], rng: random.Random) -> None:
    """Another value for a key, of the file or of its rotary settings."""
    sections = [raw, *(value for value in raw.values() if isinstance(value, dict))]
    section = rng.choice(sections)
    keys = [
        *section,
        *(MORE_KEYS if section is raw else ("rope_type", "type", "partial_rotary_factor", "full_attention")),
    ]
    section[rng.choice(keys)] = rng.choice(VALUES)


def _compare(context: Context, config: Any, raw: dict[str, Any]) -> None:
    """The accepted configuration against transformers'; a file that transformers refuses says nothing."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    try:
        theirs = LlamaConfig.from_dict(raw)
        rotary = LlamaRotaryEmbedding(theirs)
    except Exception:  # whatever transformers raises for a damaged file
        return
    for key in (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings"),
    ):
        assert getattr(config, key) == getattr(theirs, key), key
    if "max_position_embeddings" in raw and raw["max_position_embeddings"] is not None:
        assert config.max_position_embeddings == theirs.max_position_embeddings
    assert theirs.hidden_act in ("silu", "swish") and not theirs.attention_bias and not theirs.mlp_bias
    frequencies, factor = context.rotary.rotary_frequencies(config)
    expected = rotary.inv_freq.numpy()
    assert np.allclose(frequencies, expected, rtol=1e-5, atol=0, equal_nan=True), (frequencies, expected)
    assert np.isclose(factor, rotary.attention_scaling)


TARGET = Target(name="config.json", num_cases=4_000, num_quick=150, prepare=prepare, run=run)
