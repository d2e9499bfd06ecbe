"""Weights come module by module: the same results, each type kept, nothing left in memory afterwards."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_checks import is_offloaded
from tiny_models import tiny_source
from torch import nn

from vamc_compiler.precision import ModelPrecision
from vamc_compiler.trace.rank_module import build_rank
from vamc_compiler.verify.offload import CachedWeights, offload

TOKENS = torch.tensor([1, 5, 2, 5])


class Loads:
    """Copies tensors out of a dictionary, and keeps count of them."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.names: list[str] = []
        self.live_bytes = 0
        self.peak_bytes = 0

    def __call__(self, name: str) -> torch.Tensor:
        self.names.append(name)
        copy = self.tensors[name].clone()
        self.live_bytes += copy.nbytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        # The storage lives as long as any tensor that shares it.
        weakref.finalize(copy.untyped_storage(), self._forget, copy.nbytes)
        return copy

    def _forget(self, num_bytes: int) -> None:
        self.live_bytes -= num_bytes

    def cached(self, limit_bytes: int) -> CachedWeights:
        return CachedWeights(self, self.tensors.keys(), limit_bytes)


def layers() -> nn.Module:
    """Five layers; the largest weight has 16 * 16 * 4 bytes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(8, 16), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 8, bias=False)
    )


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return layers()


LARGEST_LAYER = (16 * 16 + 16) * 4


@pytest.mark.parametrize("limit_bytes", [0, 1500, 1 << 20])
def test_offloaded_module_computes_the_same_within_its_memory(limit_bytes: int) -> None:
    plain = layers()
    total = sum(tensor.nbytes for tensor in plain.state_dict().values())
    loads = Loads(plain.state_dict())
    weights = loads.cached(limit_bytes)
    model = offload(on_meta(), weights, buffers=False)
    for _ in range(3):
        with torch.inference_mode():
            assert torch.equal(model(TOKENS), plain(TOKENS))
        assert is_offloaded(model)
        assert loads.live_bytes == weights.kept_bytes <= limit_bytes
    assert loads.peak_bytes <= min(limit_bytes, total) + LARGEST_LAYER


def test_a_cache_that_holds_everything_loads_once() -> None:
    loads = Loads(layers().state_dict())
    model = offload(on_meta(), loads.cached(1 << 20), buffers=False)
    with torch.inference_mode():
        model(TOKENS)
        model(TOKENS)
    assert sorted(loads.names) == sorted(loads.tensors)


def test_a_small_cache_saves_its_share_of_every_later_forward() -> None:
    loads = Loads(layers().state_dict())
    weights = loads.cached(1500)
    model = offload(on_meta(), weights, buffers=False)
    with torch.inference_mode():
        model(TOKENS)
        first, loads.names = loads.names, []
        model(TOKENS)
    assert len(first) == len(loads.tensors)
    assert 0 < len(loads.names) < len(first)
    weights.clear()
    assert weights.kept_bytes == 0 == loads.live_bytes


def test_weights_loaded_under_inference_mode_serve_a_forward_outside_of_it() -> None:
    weight = torch.randn(8, 16)
    with torch.device("meta"):
        model = nn.Linear(16, 8, bias=False)
    offload(model, Loads({"weight": weight}).cached(1 << 20), buffers=False)
    rows = torch.randn(3, 16, requires_grad=True)
    with torch.inference_mode():
        model(rows)
    model(rows).sum().backward()
    assert rows.grad is not None
    assert torch.allclose(rows.grad, weight.sum(0).expand(3, 16), atol=1e-5)


def test_tied_parameters_are_loaded_under_both_names() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(8, 16), nn.Linear(16, 8, bias=False))
    model[1].weight = model[0].weight
    table = torch.randn(8, 16)
    offload(model, Loads({"0.weight": table, "1.weight": table}).cached(0), buffers=False)
    with torch.inference_mode():
        assert torch.equal(model(TOKENS), table[TOKENS] @ table.T)


def _look_inside_forward(path: str, module: nn.Module, seen: dict[str, torch.Tensor]) -> None:
    """Note a module's own tensors while it computes; torch's hooks run when they are gone again."""
    forward = module.forward

    def noting(*args: Any) -> Any:
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        seen.update({f"{path}.{name}".removeprefix("."): tensor.clone() for name, tensor in own if not tensor.is_meta})
        return forward(*args)

    module.forward = noting


def test_every_stored_type_is_kept(tmp_path: Path) -> None:
    """A rank of the patched modeling file: int8, float16 and float32, in parameters and buffers."""
    source = tiny_source(tmp_path, "llama")
    with torch.device("meta"):
        model = build_rank(source, source.config, ModelPrecision(quantization="int8_per_channel"))
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    tables = {name: tensor for name, tensor in model.named_buffers() if name not in shapes}
    assert {dtype for _, dtype in shapes.values()} == {torch.int8, torch.float16, torch.float32}
    assert tables, "the rotary frequencies"
    tensors = {name: (torch.rand(shape) * 9).to(dtype) for name, (shape, dtype) in shapes.items()}
    tensors |= {name: torch.rand(buffer.shape) for name, buffer in tables.items()}
    seen: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        _look_inside_forward(path, module, seen)
    offload(model, Loads(tensors).cached(0), buffers=True)
    cache = torch.zeros(3, 2, 2, 32, 8, dtype=torch.float16)
    ids = TOKENS.to(torch.int32)
    positions = torch.arange(4, dtype=torch.int32)
    table = torch.zeros(1, 1, dtype=torch.int32)
    with torch.inference_mode():
        model(ids, positions, torch.zeros_like(ids), table, positions, [cache.clone(), cache.clone()])
    assert seen.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert seen[name].dtype == tensor.dtype and torch.equal(seen[name], tensor), name
    assert is_offloaded(model)


def test_buffers_stay_as_they_are_unless_asked_for() -> None:
    model = nn.BatchNorm1d(4).eval()
    tensors = {name: torch.full_like(tensor, 3) for name, tensor in model.state_dict().items()}
    rows = torch.randn(2, 4)
    with torch.inference_mode():
        kept = offload(nn.BatchNorm1d(4).eval(), Loads(tensors).cached(0), buffers=False)(rows)
        loaded = offload(nn.BatchNorm1d(4).eval(), Loads(tensors).cached(0), buffers=True)(rows)
    assert torch.allclose(kept, rows * 3 + 3, atol=1e-4)
    assert torch.allclose(loaded, (rows - 3) / 3**0.5 * 3 + 3, atol=1e-4)


def test_missing_weights_are_named_before_anything_runs() -> None:
    tensors = layers().state_dict()
    del tensors["1.bias"], tensors["4.weight"]
    with pytest.raises(KeyError, match=r"lack 1\.bias, 4\.weight"):
        offload(on_meta(), Loads(tensors).cached(0), buffers=False)


def test_a_weight_of_another_shape_is_refused() -> None:
    tensors = layers().state_dict() | {"4.weight": torch.zeros(8, 15)}
    model = offload(on_meta(), Loads(tensors).cached(0), buffers=False)
    with pytest.raises(ValueError, match="shape"):
        model(TOKENS)


def test_looking_for_a_name_loads_nothing() -> None:
    loads = Loads(layers().state_dict())
    weights = loads.cached(0)
    assert "1.bias" in weights and "1.scale" not in weights
    assert len(weights) == len(set(weights)) == 8
    with pytest.raises(KeyError):
        weights["1.scale"]
    assert not loads.names
