"""What is used of torch beyond its public interface: look here first when torch is updated (written for 2.13)."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import _weights_only_unpickler
from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["FakeTensorMode", "open_archive", "storage_address", "typed_storage", "weights_only_unpickler"]


def open_archive(path: Path) -> Any:
    """torch's reader of the zip files that `torch.save` writes.

    Raises:
        RuntimeError: it refuses the file.
    """
    return torch._C.PyTorchFileReader(str(path))


def weights_only_unpickler(content: bytes) -> Any:
    """The unpickler of `torch.load(weights_only=True)`; `persistent_load` is to be set, then `load` called."""
    return _weights_only_unpickler.Unpickler(BytesIO(content), encoding="utf-8")


def typed_storage(num_bytes: int, dtype: torch.dtype) -> tuple[Any, int]:
    """A storage without memory, as unpicklers hand it to tensors, and its address."""
    untyped_class: Any = torch.UntypedStorage
    typed_class: Any = torch.storage.TypedStorage
    untyped = untyped_class(num_bytes, device="meta")
    return typed_class(wrap_storage=untyped, dtype=dtype, _internal=True), storage_address(untyped)


def storage_address(storage: Any) -> int:
    """Equal for all views of one storage."""
    return int(storage._cdata)
