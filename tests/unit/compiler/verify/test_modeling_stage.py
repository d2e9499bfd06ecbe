"""The modeling file as a stage is the module itself, watched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stage_checks import check_chunks, check_forcing, check_nothing_tapped, is_offloaded
from tiny_builds import TinyBuild, assert_same_runs, build_of, steps_of

from vamc_compiler.graph import PAGE_TOKENS
from vamc_compiler.trace.rank_module import build_rank, list_parameters
from vamc_compiler.verify.modeling_stage import ModelingStage
from vamc_compiler.verify.parameters import RankParameters
from vamc_compiler.verify.run import Array
from vamc_compiler.verify.subject import Subject


def run_module(build: TinyBuild, chunk_tokens: int) -> tuple[Array, dict[str, Array]]:
    """The module with its weights in place, called as it is: logits, and what arrives at every norm."""
    (parameters,) = build.rank_parameters()
    with torch.device("meta"):
        model = build_rank(build.source, build.source.config.for_rank(0, 1), build.precision)
    state = {}
    for name, spec in parameters.specs.items():
        array = parameters[name]
        tensor = torch.from_numpy(array.view(np.int16) if spec.dtype == "bfloat16" else array)
        state[name] = tensor.view(torch.bfloat16) if spec.dtype == "bfloat16" else tensor
    for name, tensor in state.items():
        path, _, own = name.rpartition(".")
        module = model.get_submodule(path)
        value = torch.nn.Parameter(tensor, requires_grad=False) if own in module._parameters else tensor
        setattr(module, own, value)
    outputs: dict[str, list[Array]] = {}

    def watch(path: str) -> None:
        def keep(module: torch.nn.Module, arguments: object, output: torch.Tensor) -> None:
            outputs.setdefault(f"{path}.out", []).append(output.numpy().copy())

        model.get_submodule(path).register_forward_hook(keep)

    watch("model.layers.0.self_attn.o_proj")
    watch("model.layers.0.mlp.down_proj")
    steps = steps_of(chunk_tokens)
    shape: Any = (steps[0].page_table.size, 2, model.num_kv_slots, PAGE_TOKENS, build.source.config.head_dim)
    cache = [torch.zeros(shape, dtype=torch.float16) for _ in range(build.source.config.num_hidden_layers)]
    logits = []
    with torch.no_grad():
        for step in steps:
            result, cache = model(*map(torch.from_numpy, step), cache)
            logits.append(result.numpy())
    return np.concatenate(logits), {name: np.concatenate(rows) for name, rows in outputs.items()}


@pytest.mark.parametrize("chunk_tokens", [37, 10])
@pytest.mark.parametrize("name", ["one_rank", "bfloat16"])
def test_as_the_module_called_directly(name: str, chunk_tokens: int, request: pytest.FixtureRequest) -> None:
    build: TinyBuild = request.getfixturevalue(name)
    logits, outputs = run_module(build, chunk_tokens)
    found = build.modeling_stage().run(steps_of(chunk_tokens), build.plan.taps)
    assert np.array_equal(found.logits, logits)
    for tap, rows in outputs.items():
        assert np.array_equal(found.taps[tap].whole(), rows), tap


def test_streams_are_sums_of_what_the_layers_add(one_rank: TinyBuild) -> None:
    run = one_rank.modeling_stage().run(steps_of(), one_rank.plan.taps)
    found = {name: value.whole() for name, value in run.taps.items()}
    stream = found["model.embed_tokens.out"]
    assert np.array_equal(found["model.layers.0.input_layernorm.in"], stream)
    for layer in range(2):
        path = f"model.layers.{layer}."
        stream = stream + found[f"{path}self_attn.o_proj.out"]
        np.testing.assert_allclose(found[f"{path}post_attention_layernorm.in"], stream, rtol=1e-5, atol=1e-5)
        stream = stream + found[f"{path}mlp.down_proj.out"]
    np.testing.assert_allclose(found["model.norm.in"], stream, rtol=1e-5, atol=1e-5)


def test_two_ranks_as_one(one_rank: TinyBuild, two_ranks: TinyBuild) -> None:
    """They have the same checkpoint: parts make the whole, summands the sum."""
    found = two_ranks.modeling_stage().run(steps_of(), two_ranks.plan.taps)
    expected = one_rank.modeling_stage().run(steps_of(), one_rank.plan.taps)
    assert_same_runs(found, expected, 1e-3)
    assert {name for name, value in found.taps.items() if len(value.parts) == 2} == {
        name for name, tap in two_ranks.plan.taps.items() if tap.columns is not None
    }


def test_padded_heads_as_one_rank(four_ranks: TinyBuild) -> None:
    """The same int8 model on one rank; its taps have the same names."""
    plan, source = four_ranks.plan.for_one_rank(), four_ranks.source
    with torch.device("meta"):
        model = build_rank(source, source.config.for_rank(0, 1), four_ranks.precision)
    alone = [RankParameters(four_ranks.checkpoint, list_parameters(model), 0)]
    stage = ModelingStage("alone", source, four_ranks.precision, alone, plan, page_tokens=PAGE_TOKENS)
    expected = stage.run(steps_of(), plan.taps)
    assert_same_runs(four_ranks.modeling_stage().run(steps_of(), plan.taps), expected, 1e-3)


@pytest.mark.parametrize("name", ["one_rank", "two_ranks", "four_ranks", "bfloat16"])
def test_chunks_and_forced_streams(name: str, request: pytest.FixtureRequest) -> None:
    build: TinyBuild = request.getfixturevalue(name)
    stage = build.modeling_stage()
    check_chunks(stage, build.plan, 1e-3)
    check_forcing(stage, build.plan, 1e-3)
    check_forcing(stage, build.plan, 1e-3, chunk_tokens=10)


def test_nothing_tapped(two_ranks: TinyBuild) -> None:
    check_nothing_tapped(two_ranks.modeling_stage(), two_ranks.plan)


def test_int8_activations_are_rounded(compiled_int8: Subject) -> None:
    """The taps show the layers' float32 inputs; int8 makes them differ from the float16 model."""
    build = build_of(compiled_int8)
    found = build.modeling_stage().run(steps_of(), build.plan.taps)
    assert set(found.taps) == set(build.plan.taps)
    assert {part.dtype for value in found.taps.values() for part in value.parts} == {np.dtype(np.float32)}


def test_weights_are_loaded_layer_by_layer(one_rank: TinyBuild) -> None:
    stage = one_rank.modeling_stage()
    stage.run(steps_of())
    assert all(is_offloaded(rank._model) for rank in stage._ranks)


def test_a_cache_in_float32_is_closer_to_one_prefill(one_rank: TinyBuild) -> None:
    """A float16 cache rounds keys and values; that is all that chunks change."""
    exact = one_rank.modeling_stage(cache_dtype=torch.float32)
    rounded = one_rank.modeling_stage()
    whole = exact.run(steps_of()).logits
    assert np.abs(exact.run(steps_of(10)).logits - whole).max() < 1e-5
    assert np.abs(rounded.run(steps_of(10)).logits - whole).max() > 1e-5
