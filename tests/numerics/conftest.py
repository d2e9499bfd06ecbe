"""A reference of its own kind, and held-out tokens."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fixture_types import HeldOut, Reference
from golden.cases import CHECKPOINTS, held_out_text

from vamc_runtime.text.tokenizer import load_tokenizer

NUM_TOKENS = 512


@functools.cache
def _load_reference(model: str) -> Any:
    """The checkpoint's own class in float32: transformers' LLaMA, or the plain Baichuan beside the weights."""
    from transformers import AutoModelForCausalLM

    path = CHECKPOINTS / model
    return AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def reference() -> Reference:
    """`reference(model, token_ids)`: float32 logits [t, v] of the original model in torch."""

    def logits(model: str, token_ids: list[int]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            result: npt.NDArray[np.float32] = _load_reference(model)(torch.tensor([token_ids])).logits[0].numpy()
        return result

    return logits


@pytest.fixture(scope="session")
def held_out() -> HeldOut:
    """`held_out(model)`: 512 tokens of the kind of text that the model was trained on, and of none that it read."""

    def tokens(model: str) -> list[int]:
        ids = load_tokenizer(CHECKPOINTS / model).encode(held_out_text(model))[:NUM_TOKENS]
        assert len(ids) == NUM_TOKENS, "the held-out text is long enough"
        return ids

    return tokens
