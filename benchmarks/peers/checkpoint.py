"""Write the Hugging Face checkpoint that every contestant is built from.

    python benchmarks/peers/checkpoint.py --shape mha2048 FOLDER

Weights are random numbers of the width that trained weights have. The tokenizer has the vocabulary size that the
shape says and means nothing: converters want one, the measurements use token ids.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from shapes import SHAPES, Shape
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

WEIGHT_DEVIATION = 0.02
MAX_CONTEXT_TOKENS = 2048


def weight_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, in the order of the file."""
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    kv = shape.num_key_value_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocab_size, hidden)
    for layer in range(shape.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        for name, width in (("q", hidden), ("k", kv), ("v", kv), ("o", hidden)):
            yield f"{prefix}.self_attn.{name}_proj.weight", (width, hidden)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        for name in ("gate", "up"):
            yield f"{prefix}.mlp.{name}_proj.weight", (intermediate, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, intermediate)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (shape.vocab_size, hidden)


def random_weight(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[np.float16]:
    """Ones for norms, normal random numbers for matrices."""
    if name.endswith("norm.weight"):
        return np.ones(shape, np.float16)
    values = generator.standard_normal(shape, np.float32)
    values *= WEIGHT_DEVIATION
    return values.astype(np.float16)


def write_weights(path: Path, shape: Shape) -> None:
    """A safetensors file, written tensor by tensor so that memory stays at one tensor."""
    header, position = {}, 0
    for name, dimensions in weight_shapes(shape):
        end = position + int(np.prod(dimensions)) * np.dtype(np.float16).itemsize
        header[name] = {"dtype": "F16", "shape": list(dimensions), "data_offsets": [position, end]}
        position = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes, as the format asks
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, dimensions in weight_shapes(shape):
            random_weight(name, dimensions, generator).tofile(file)


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-fallback BPE as LLaMA's, its vocabulary filled up with names."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [f"▁w{index}" for index in range(vocab_size - len(words))]
    tokenizer = Tokenizer(
        models.BPE({word: index for index, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words[:3]])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {**special, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_CONTEXT_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")


def write_checkpoint(folder: Path, shape: Shape) -> None:
    """config.json, model.safetensors and the tokenizer; config.json last, so that its presence means complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, shape.vocab_size)
    write_weights(folder / "model.safetensors", shape)
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(ids), encoding="utf-8")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": MAX_CONTEXT_TOKENS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "initializer_range": WEIGHT_DEVIATION,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float16",
        **ids,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="mha2048")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    print(f"{options.folder}: {shape.num_parameters / 1e9:.2f} billion parameters", flush=True)
    write_checkpoint(options.folder, shape)


if __name__ == "__main__":
    main()
