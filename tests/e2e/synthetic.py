"""Synthetic checkpoints of any size: random weights of the right shapes, written without holding them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

ITEM_BYTES = 2  # bfloat16


def write_llama(path: Path, *, hidden: int, intermediate: int, heads: int, layers: int, vocab: int) -> int:
    """Write a LLaMA checkpoint of one safetensors file with random bfloat16 weights; returns its size in bytes."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "torch_dtype": "bfloat16",
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "lm_head.weight": (vocab, hidden),
    }
    shapes["model.norm.weight"] = (hidden,)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (hidden, hidden)
        for name in ("gate", "up"):
            shapes[f"{prefix}.mlp.{name}_proj.weight"] = (intermediate, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, intermediate)
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header, position = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * ITEM_BYTES
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    encoded = json.dumps(header).encode()
    # One block of small numbers, over and over: what they are does not matter, that they are finite does.
    values = (np.random.default_rng(0).standard_normal(1 << 20) * 0.02).astype(np.float32)
    block = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        left = position
        while left:
            left -= file.write(block[: min(left, len(block))])
    return position
