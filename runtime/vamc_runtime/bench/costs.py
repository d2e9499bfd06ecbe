"""What a step has to read and to multiply, from the sizes of the weights and the model: no measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_runtime.bench.cases import Case
from vamc_runtime.executor import RankExecutor
from vamc_runtime.manifest import Manifest

# Names in Hugging Face checkpoints, which the modeling files keep.
EMBEDDING, HEAD = "embed_tokens.", "lm_head."


@dataclass(frozen=True, kw_only=True)
class RankWeights:
    """Sizes of one rank's weights."""

    read_bytes: int
    """What every step reads: all but the embedding."""
    embedding_row_bytes: int
    """One row of the embedding: what a token reads of it; 0 where it is no tensor of its own."""
    layer_multiply_adds: int
    """For one token, linear layers without the head; packed weights, padding included."""
    head_multiply_adds: int
    """For one row of logits."""


def is_embedding(name: str) -> bool:
    """Whether a step reads only rows of this weight."""
    return EMBEDDING in name


def measure_weights(weights: Mapping[str, npt.NDArray[Any]]) -> RankWeights:
    """The sizes, from name and array of every weight."""
    rest = {name: array for name, array in weights.items() if not is_embedding(name)}
    elements = {name: array.size for name, array in rest.items() if array.ndim >= 2}
    head = sum(count for name, count in elements.items() if HEAD in name)
    rows = [array.nbytes // len(array) for name, array in weights.items() if is_embedding(name)]
    return RankWeights(
        read_bytes=sum(array.nbytes for array in rest.values()),
        embedding_row_bytes=sum(rows),
        layer_multiply_adds=sum(elements.values()) - head,
        head_multiply_adds=head,
    )


def rank_weights(executor: RankExecutor) -> RankWeights:
    """`measure_weights` as a task for every rank."""
    return measure_weights({name: executor.weights[name] for name in executor.runstream.manifest.parameters})


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one case reads and multiplies, over all ranks."""

    weight_bytes: int
    """Weights, in every step once."""
    embedding_bytes: int
    """Rows of the embedding, on every rank."""
    kv_bytes: int
    """Cached keys and values that a step reads: at least, each token once."""
    linear_multiply_adds: int
    """Linear layers, and the head for the tokens that are sampled."""
    attention_multiply_adds: int
    """Queries times keys, and weights times values, for the pairs that are not masked."""


def cost_of(case: Case, manifest: Manifest, ranks: list[RankWeights]) -> Cost:
    """The cost of a case."""
    num_logits, num_steps = case.batch, -(-case.num_tokens // manifest.limits.max_prefill_tokens)
    layout, model = manifest.kv_cache, manifest.model
    token_bytes = layout.page_bytes // layout.page_tokens * len(ranks)
    linear = sum(
        rank.layer_multiply_adds * case.num_tokens + rank.head_multiply_adds * num_logits * num_steps for rank in ranks
    )
    return Cost(
        weight_bytes=num_steps * sum(rank.read_bytes for rank in ranks),
        embedding_bytes=case.num_tokens * sum(rank.embedding_row_bytes for rank in ranks),
        kv_bytes=token_bytes * case.batch * case.context,
        linear_multiply_adds=linear,
        attention_multiply_adds=2 * model.num_layers * model.num_heads * layout.head_dim * case.num_pairs,
    )


def fill_cache(executor: RankExecutor, num_pages: int) -> None:
    """Small random numbers in the first pages: neither NaN nor denormal, both of which some CPUs compute slowly."""
    for layer, pages in enumerate(executor.kv_cache):
        values = np.random.default_rng(layer).uniform(0.01, 0.1, pages.shape[1:])
        pages[:num_pages] = values.astype(pages.dtype)
