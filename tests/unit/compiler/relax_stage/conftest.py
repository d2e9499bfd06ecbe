"""Graphs of a tiny model, traced once."""

from __future__ import annotations

import pytest
from tiny_models import tiny_source

from vamc_compiler.graph import RankGraph, make_rank_graph
from vamc_compiler.precision import ModelPrecision


@pytest.fixture(scope="package")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> RankGraph:
    """The tiny grouped-query llama, two layers, one rank."""
    return make_rank_graph(tiny_source(tmp_path_factory.mktemp("two"), "llama"), 1, ModelPrecision(), 0)


@pytest.fixture(scope="package")
def four_layers(tmp_path_factory: pytest.TempPathFactory) -> RankGraph:
    """The same with four layers."""
    source = tiny_source(tmp_path_factory.mktemp("four"), "llama", num_hidden_layers=4)
    return make_rank_graph(source, 1, ModelPrecision(), 0)
