"""What the index of a checkpoint says, against tensors that are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from vamc_compiler.weights.checkpoint import Checkpoint, open_checkpoint
from vamc_compiler.weights.stored_tensor import StoredTensor
from vamc_runtime.errors import UserError


def read(tensor: StoredTensor) -> torch.Tensor:
    """The tensor's bytes, as the index says."""
    raw = tensor.path.read_bytes()[tensor.offset : tensor.offset + tensor.num_bytes]
    dtype = getattr(torch, tensor.dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(tensor.shape)


def assert_holds(checkpoint: Checkpoint, state: Mapping[str, torch.Tensor]) -> None:
    assert set(checkpoint.tensors) == set(state)
    for name, tensor in state.items():
        found = read(checkpoint.tensors[name])
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor.detach()), name


def message(directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_checkpoint(directory)
    return str(caught.value)
