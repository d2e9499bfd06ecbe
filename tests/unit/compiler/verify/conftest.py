"""Tiny models, traced and compiled once per session."""

from __future__ import annotations

import pytest
from tiny_builds import TinyBuild, build_of, compile_tiny, make_build

from vamc_compiler.precision import ModelPrecision
from vamc_compiler.verify.subject import Subject


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """LLaMA in float16 on one rank; its width of 24 is stored padded."""
    return compile_tiny(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def compiled_int8(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Baichuan with int8 weights and activations: kernels between layers quantize for the next one."""
    return compile_tiny(tmp_path_factory.mktemp("int8"), "baichuan 7B", "w8a8_dynamic", num_hidden_layers=1)


@pytest.fixture(scope="session")
def one_rank(compiled: Subject) -> TinyBuild:
    """What `compiled` was made from."""
    return build_of(compiled)


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> TinyBuild:
    """LLaMA in float16 on two ranks."""
    return make_build(tmp_path_factory.mktemp("llama"), "llama", 2)


@pytest.fixture(scope="session")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> TinyBuild:
    """Six heads in int8 on four ranks: two are padding; ALiBi slopes are constants of each rank."""
    precision = ModelPrecision(quantization="int8_per_channel")
    return make_build(tmp_path_factory.mktemp("13B"), "baichuan 13B", 4, precision, num_hidden_layers=1)


@pytest.fixture(scope="session")
def bfloat16(tmp_path_factory: pytest.TempPathFactory) -> TinyBuild:
    """One layer with bfloat16 weights."""
    precision = ModelPrecision(unquantized="bfloat16")
    return make_build(tmp_path_factory.mktemp("7B"), "baichuan 7B", 1, precision, num_hidden_layers=1)
