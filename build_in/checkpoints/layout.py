"""Write a demo checkpoint in exactly the files, keys and formats of the published ones.

Baichuan2: remote code, `tokenizer.model`, bf16 `pytorch_model-0000x-of-0000y.bin` with an index.
LLaMA: `tokenizer.json`, bf16 `model-0000x-of-0000y.safetensors` with an index, a chat template.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from make_text import Kind
from make_tokenizer import (
    ASSISTANT_TOKEN_ID,
    BOS_ID,
    EOS_ID,
    LLAMA_HEADER_END,
    LLAMA_HEADER_START,
    LLAMA_SPECIAL_TOKENS,
    LLAMA_TURN_END,
    UNK_ID,
    USER_TOKEN_ID,
    train_bpe,
    train_sentencepiece,
)
from safetensors.torch import save_file

CONTEXT_TOKENS = 1024  # what config.json promises
NUM_SHARDS = 2
HERE = Path(__file__).resolve().parent
REMOTE_CODE = ("configuration_baichuan.py", "modeling_baichuan.py", "tokenization_baichuan.py")

LLAMA_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{{{{ '{LLAMA_HEADER_START}' + message['role'] + '{LLAMA_HEADER_END}' + '\\n\\n' }}}}"
    f"{{{{ message['content'] + '{LLAMA_TURN_END}' }}}}"
    "{% endfor %}{% if add_generation_prompt %}"
    f"{{{{ '{LLAMA_HEADER_START}assistant{LLAMA_HEADER_END}' + '\\n\\n' }}}}"
    "{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One demo checkpoint."""

    name: str  # folder name
    family: Literal["baichuan", "llama"]  # which published layout
    position: Literal["alibi", "rope"]  # how attention knows positions
    num_heads: int  # query heads
    num_kv_heads: int  # key and value heads
    hidden_size: int = 192  # channels
    intermediate_size: int = 528  # channels
    num_layers: int = 4  # decoder layers
    vocab_size: int  # tokens
    text: Kind = "village"  # what it is trained on
    seed: int  # of weights and text


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        # Six heads: no power of two (ALiBi's second rule), not divisible by four (padded heads at tp 4).
        Preset(
            name="baichuan2-13b-mini",
            family="baichuan",
            position="alibi",
            num_heads=6,
            num_kv_heads=6,
            vocab_size=1280,
            seed=13,
        ),
        # The one that is not sure of itself, as models of published sizes are not.
        Preset(
            name="baichuan2-7b-mini",
            family="baichuan",
            position="rope",
            num_heads=4,
            num_kv_heads=4,
            vocab_size=3200,
            text="gazette",
            seed=7,
        ),
        Preset(
            name="llama-mini",
            family="llama",
            position="rope",
            num_heads=6,
            num_kv_heads=2,
            vocab_size=1152,
            seed=3,
        ),
    )
}


def model_config(preset: Preset) -> dict[str, Any]:
    """The content of ``config.json``, with the keys of the published checkpoint."""
    common: dict[str, Any] = {
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "hidden_act": "silu",
        "hidden_size": preset.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": preset.intermediate_size,
        "num_attention_heads": preset.num_heads,
        "num_hidden_layers": preset.num_layers,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    if preset.family == "llama":
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            **common,
            "eos_token_id": [EOS_ID, LLAMA_SPECIAL_TOKENS.index(LLAMA_TURN_END)],
            "max_position_embeddings": CONTEXT_TOKENS,
            "mlp_bias": False,
            "model_type": "llama",
            "num_key_value_heads": preset.num_kv_heads,
            "pretraining_tp": 1,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "transformers_version": "4.44.0",
            "vocab_size": preset.vocab_size,
        }
    positions = {"max_position_embeddings": CONTEXT_TOKENS} if preset.position == "rope" else {}
    return {
        "architectures": ["BaichuanForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_baichuan.BaichuanConfig",
            "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
        },
        "tokenizer_class": "BaichuanTokenizer",
        **common,
        **positions,
        "model_max_length": CONTEXT_TOKENS,
        "model_type": "baichuan",
        "pad_token_id": UNK_ID,
        "transformers_version": "4.29.2",
        "vocab_size": preset.vocab_size,
    }


def generation_config(preset: Preset) -> dict[str, Any]:
    """The content of ``generation_config.json``."""
    if preset.family == "llama":
        return {
            "bos_token_id": BOS_ID,
            "eos_token_id": [EOS_ID, LLAMA_SPECIAL_TOKENS.index(LLAMA_TURN_END)],
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
            "transformers_version": "4.44.0",
        }
    return {
        "pad_token_id": UNK_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "user_token_id": USER_TOKEN_ID,
        "assistant_token_id": ASSISTANT_TOKEN_ID,
        "max_new_tokens": 256,
        "temperature": 0.3,
        "top_k": 5,
        "top_p": 0.85,
        "repetition_penalty": 1.05,
        "do_sample": True,
        "transformers_version": "4.29.2",
    }


def tokenizer_config(preset: Preset) -> dict[str, Any]:
    """The content of ``tokenizer_config.json``."""
    if preset.family == "llama":
        return {
            "added_tokens_decoder": {
                str(index): {**added_token(token), "special": True} for index, token in enumerate(LLAMA_SPECIAL_TOKENS)
            },
            "bos_token": "<s>",
            "chat_template": LLAMA_CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": CONTEXT_TOKENS,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
        }
    special = {"__type": "AddedToken"}
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]},
        "bos_token": special | added_token("<s>"),
        "clean_up_tokenization_spaces": False,
        "eos_token": special | added_token("</s>"),
        "model_max_length": CONTEXT_TOKENS,
        "pad_token": special | added_token("<unk>"),
        "sp_model_kwargs": {},
        "tokenizer_class": "BaichuanTokenizer",
        "unk_token": special | added_token("<unk>"),
        "use_fast": False,
    }


def added_token(content: str) -> dict[str, Any]:
    """A special token as the json files spell it."""
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def special_tokens_map(preset: Preset) -> dict[str, Any]:
    """The content of ``special_tokens_map.json``."""
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if preset.family == "baichuan":
        tokens["pad_token"] = "<unk>"
    return {role: added_token(token) for role, token in tokens.items()}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` the way published checkpoints do: two spaces, unescaped, one newline at the end."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_everything_but_weights(preset: Preset, folder: Path, texts: Iterable[str]) -> None:
    """Write configs, remote code and a tokenizer trained on ``texts`` into ``folder``."""
    write_json(folder / "config.json", model_config(preset))
    write_json(folder / "generation_config.json", generation_config(preset))
    write_json(folder / "tokenizer_config.json", tokenizer_config(preset))
    write_json(folder / "special_tokens_map.json", special_tokens_map(preset))
    if preset.family == "llama":
        train_bpe(texts, preset.vocab_size).save(str(folder / "tokenizer.json"))
        return
    (folder / "tokenizer.model").write_bytes(train_sentencepiece(texts, preset.vocab_size))
    for name in REMOTE_CODE:
        shutil.copyfile(HERE / preset.name / name, folder / name)


def write_weights(preset: Preset, folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write ``state`` as bf16 shards of about equal size in checkpoint order, with their index."""
    tensors = {name: tensor.detach().to(torch.bfloat16).contiguous().clone() for name, tensor in state.items()}
    total_size = sum(tensor.nbytes for tensor in tensors.values())
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(NUM_SHARDS)]
    written_bytes = 0
    for name, tensor in tensors.items():
        shards[min(written_bytes * NUM_SHARDS // total_size, NUM_SHARDS - 1)][name] = tensor
        written_bytes += tensor.nbytes
    stem, suffix = ("model", "safetensors") if preset.family == "llama" else ("pytorch_model", "bin")
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"{stem}-{number:05d}-of-{NUM_SHARDS:05d}.{suffix}"
        weight_map |= dict.fromkeys(shard, file_name)
        if preset.family == "llama":
            save_file(shard, folder / file_name, metadata={"format": "pt"})
            (folder / file_name).chmod(0o644)  # safetensors writes 0600
        else:
            torch.save(shard, folder / file_name)
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    write_json(folder / f"{stem}.{suffix}.index.json", index)
