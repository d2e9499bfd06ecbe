"""What each rank holds: over all ranks every tensor of the checkpoint, once."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tiny_models import CONFIGS, FAMILIES, FIRST_BAICHUAN, tiny_source
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vamc_compiler.parameters import Origin, ParameterSpec, declare, from_tensor
from vamc_compiler.precision import ModelPrecision, WeightType
from vamc_compiler.sharding import Shard
from vamc_compiler.trace.rank_module import build_rank, list_parameters
from vamc_compiler.transforms import AS_STORED, QUANT, SCALE, UNIT_ROWS, Int8Rows, Transform

Array = npt.NDArray[np.int64]


def only_tensor(origin: Origin) -> str:
    (tensor,) = origin.tensors
    return tensor


def rank_parameters(
    directory: Path, family: str, num_ranks: int, precision: ModelPrecision | None = None, **changes: object
) -> list[list[ParameterSpec]]:
    source = tiny_source(directory, family, **changes)
    with FakeTensorMode():
        return [
            list_parameters(build_rank(source, source.config.for_rank(rank, num_ranks), precision or ModelPrecision()))
            for rank in range(num_ranks)
        ]


def count(shard: Shard | None, size: int, dim: int) -> Array:
    """How often the rank holds each index along `dim`."""
    counts = np.zeros(size, np.int64)
    for piece in shard.pieces if shard is not None and shard.dim == dim else ():
        if piece.start is not None:
            assert piece.start >= 0 and piece.start + piece.length <= size
            counts[piece.start : piece.start + piece.length] += 1
    return counts


def expected_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """The checkpoint's tensors, written down by hand."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (50, 24),
        "model.norm.weight": (24,),
        "lm_head.weight": (50, 24),
    }
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.{name}_layernorm.weight": (24,) for name in ("input", "post_attention")}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (20, 24) for name in ("gate", "up")}
        shapes[f"{prefix}.mlp.down_proj.weight"] = (24, 20)
        if family == "llama":
            shapes |= {f"{prefix}.self_attn.q_proj.weight": (48, 24), f"{prefix}.self_attn.o_proj.weight": (24, 48)}
            shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (16, 24) for name in ("k", "v")}
        else:
            shapes |= {f"{prefix}.self_attn.W_pack.weight": (72, 24), f"{prefix}.self_attn.o_proj.weight": (24, 24)}
    return shapes


REPLICATED = ("norm.weight", "layernorm.weight", "embed_tokens.weight")


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_ranks_cover_every_tensor_exactly_once(tmp_path: Path, family: str, num_ranks: int) -> None:
    ranks = rank_parameters(tmp_path, family, num_ranks)
    shapes = expected_shapes(family)
    assert [spec.name for spec in ranks[0]] == [spec.name for spec in ranks[-1]]
    assert [spec.shape for spec in ranks[0]] == [spec.shape for spec in ranks[-1]], "one library serves all"
    held: dict[str, list[tuple[ParameterSpec, Origin]]] = defaultdict(list)
    for parameters in ranks:
        for spec in parameters:
            if isinstance(spec.origin, Origin):
                held[only_tensor(spec.origin)].append((spec, spec.origin))
    assert set(held) == set(shapes)
    for tensor, parts in held.items():
        shape = shapes[tensor]
        for spec, origin in parts:
            assert spec.name == tensor
            assert spec.shape == (shape if origin.shard is None else origin.shard.local_shape(shape))
            assert origin.shard is None or origin.shard.full == shape[origin.shard.dim]
            is_norm = tensor.endswith("norm.weight")
            assert spec.dtype == ("float32" if is_norm else "float16")
        if tensor.endswith(REPLICATED):
            assert all(origin.shard is None for _, origin in parts)
            continue
        dims = {origin.shard.dim for _, origin in parts if origin.shard is not None}
        assert dims == ({1} if tensor.endswith(("o_proj.weight", "down_proj.weight")) else {0})
        (dim,) = dims
        counts = sum(count(origin.shard, shape[dim], dim) for _, origin in parts)
        if tensor.endswith(("k_proj.weight", "v_proj.weight")) and num_ranks > 2:
            assert np.min(counts) >= 1, "key/value heads may be replicated, never lost"
        elif tensor.endswith("q_proj.weight") and num_ranks == 4:
            expected = np.repeat([1, 1, 2] * 2, 8)
            np.testing.assert_array_equal(counts, expected, "a padded query repeats a true one")
        else:
            np.testing.assert_array_equal(counts, 1, err_msg=tensor)


@pytest.mark.parametrize("family", ["baichuan 7B", "baichuan 13B"])
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_packed_projections_hold_the_same_heads_of_q_k_and_v(tmp_path: Path, family: str, num_ranks: int) -> None:
    for parameters in rank_parameters(tmp_path, family, num_ranks):
        (origin,) = (s.origin for s in parameters if s.name == "model.layers.0.self_attn.W_pack.weight")
        (output,) = (s.origin for s in parameters if s.name == "model.layers.0.self_attn.o_proj.weight")
        assert isinstance(origin, Origin) and isinstance(output, Origin)
        assert origin.shard is not None and output.shard is not None
        thirds = count(origin.shard, 72, 0).reshape(3, 24)
        for third in thirds:
            np.testing.assert_array_equal(third, count(output.shard, 24, 1))
        assert origin.shard.local == 3 * output.shard.local


@pytest.mark.parametrize(("first", "transform"), [(False, UNIT_ROWS), (True, AS_STORED)])
@pytest.mark.parametrize("family", ["baichuan 7B", "baichuan 13B"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_head_of_each_baichuan(tmp_path: Path, family: str, first: bool, transform: Transform, tied: bool) -> None:
    """Baichuan2's rows are normalised, also when the head shares the embedding; Baichuan 1's are not."""
    changes: dict[str, Any] = {"tie_word_embeddings": tied, **(FIRST_BAICHUAN if first else {})}
    for parameters in rank_parameters(tmp_path, family, 2, **changes):
        (head,) = (spec.origin for spec in parameters if spec.name == "lm_head.weight")
        assert isinstance(head, Origin)
        assert head.transform == transform
        assert only_tensor(head) == ("model.embed_tokens.weight" if tied else "lm_head.weight")
        assert head.shard is not None and head.shard.local == CONFIGS[family]["vocab_size"] // 2


def test_a_tied_head_reads_the_embedding(tmp_path: Path) -> None:
    for parameters in rank_parameters(tmp_path, "llama", 3, tie_word_embeddings=True):
        origins = {spec.name: spec.origin for spec in parameters}
        head, embedding = origins["lm_head.weight"], origins["model.embed_tokens.weight"]
        assert isinstance(head, Origin) and isinstance(embedding, Origin)
        assert only_tensor(head) == only_tensor(embedding) == "model.embed_tokens.weight"
        assert head.shard is not None and head.shard.local == math.ceil(50 / 3)
        assert embedding.shard is None


@pytest.mark.parametrize("num_ranks", [1, 4])
@pytest.mark.parametrize(
    ("family", "quantization", "unquantized"),
    [*((family, "int8_per_channel", "float16") for family in FAMILIES), ("llama", "w8a8_dynamic", "bfloat16")],
)
def test_int8_swaps_the_layers_linears_and_nothing_else(
    tmp_path: Path, family: str, quantization: str, unquantized: WeightType, num_ranks: int
) -> None:
    plain = rank_parameters(tmp_path / "a", family, num_ranks, ModelPrecision(unquantized=unquantized))
    precision = ModelPrecision(unquantized=unquantized, quantization=quantization)
    quantized = rank_parameters(tmp_path / "b", family, num_ranks, precision)
    for before, after in zip(plain, quantized, strict=True):
        found = {spec.name: spec for spec in after}
        for spec in before:
            is_linear = spec.name.endswith(("_proj.weight", "W_pack.weight"))
            if not is_linear:
                assert found.pop(spec.name).dtype == spec.dtype
                continue
            assert isinstance(spec.origin, Origin)
            weight = found.pop(spec.name.replace("weight", "quant_w"))
            scale = found.pop(spec.name.replace("weight", "scale_w"))
            assert (weight.dtype, weight.shape) == ("int8", spec.shape)
            assert (scale.dtype, scale.shape) == ("float32", spec.shape[:1])
            quantized_origin = replace(spec.origin, transform=Int8Rows())
            assert weight.origin == replace(quantized_origin, output=QUANT)
            assert scale.origin == replace(quantized_origin, output=SCALE)
        assert not found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_int8_takes_the_head_in_when_asked(tmp_path: Path, family: str, tied: bool) -> None:
    """Rows of a NormHead are normalised before their scales are taken; the embedding stays as it is."""
    changes: dict[str, Any] = {"vocab_size": 50, "tie_word_embeddings": tied}
    without = rank_parameters(tmp_path / "a", family, 2, ModelPrecision(quantization="int8_per_channel"), **changes)
    precision = ModelPrecision(quantization="int8_per_channel", lm_head=True)
    quantized = rank_parameters(tmp_path / "b", family, 2, precision, **changes)
    for before, after in zip(without, quantized, strict=True):
        (head,) = (spec for spec in before if spec.name == "lm_head.weight")
        assert isinstance(head.origin, Origin)
        assert only_tensor(head.origin) == ("model.embed_tokens.weight" if tied else "lm_head.weight")
        transform = AS_STORED if family == "llama" else UNIT_ROWS
        assert head.origin.transform == transform
        names = {spec.name for spec in before}
        new = {spec.name: spec for spec in after if spec.name not in names}
        weight, scale = (new.pop(f"lm_head.projection.{name}") for name in ("quant_w", "scale_w"))
        assert not new and names - {spec.name for spec in after} == {"lm_head.weight"}
        assert (weight.dtype, weight.shape) == ("int8", head.shape)
        assert (scale.dtype, scale.shape) == ("float32", head.shape[:1])
        assert weight.origin == replace(head.origin, transform=Int8Rows(transform), output=QUANT)
        assert scale.origin == replace(head.origin, transform=Int8Rows(transform), output=SCALE)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_replaces_every_float16_and_nothing_else(tmp_path: Path, family: str) -> None:
    plain = rank_parameters(tmp_path / "a", family, 2)
    for before, after in zip(
        plain, rank_parameters(tmp_path / "b", family, 2, ModelPrecision(unquantized="bfloat16")), strict=True
    ):
        for old, new in zip(before, after, strict=True):
            assert (new.name, new.shape) == (old.name, old.shape)
            assert new.dtype == ("bfloat16" if old.dtype == "float16" else "float32")


def test_a_parameter_without_an_origin_is_a_bug() -> None:
    module = nn.Sequential(nn.Linear(2, 2, bias=False))
    with pytest.raises(AssertionError, match=r"0\.weight has no origin"):
        list_parameters(module)


def test_names_are_relative_to_the_module_or_to_the_root() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Module()
            for name, origin in (("near", "sibling"), ("far", "/other.weight")):
                self.inner.register_buffer(name, torch.zeros(1))
                declare(self.inner, **{name: from_tensor(origin)})

    origins = [spec.origin for spec in list_parameters(Outer())]
    assert origins == [from_tensor("inner.sibling"), from_tensor("other.weight")]
