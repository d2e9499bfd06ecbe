"""The checkpoint read once more, by the libraries that its files were written with: torch.load and safetensors.

Everything else in a verification finds the weights through the index of weights/checkpoint.py, as the compiler does; a
mistake there would be on both sides of every comparison. Nothing here comes from it: files are chosen, tensors named
and bytes read anew. Of every tensor that the model uses a few rows are compared, so that time and memory are bounded
by the number of tensors, whatever their size.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from vamc_compiler.weights.checkpoint import Checkpoint
from vamc_compiler.weights.stored_tensor import StoredTensor

_PRECEDENCE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files that AutoModel.from_pretrained looks for, in this order."""
_SHARED = {
    "lm_head.weight": "model.embed_tokens.weight",
    "model.embed_tokens.weight": "lm_head.weight",
}
"""Two names of one tensor, where head and embedding are tied."""
_NUM_ROWS = 4
"""Rows of each tensor that are compared, the first and the last among them."""
_MAX_VECTOR = 1 << 16
"""Vectors up to this length are compared whole."""


@dataclass(frozen=True)
class Misread:
    """A tensor that the compiler's index finds elsewhere, or otherwise, than the library of its file."""

    tensor: str
    """The model's name for it."""
    hint: str
    """What differs, in words."""


def find_misread(checkpoint: Checkpoint, names: Collection[str]) -> Iterator[Misread]:
    """Compare the index of a checkpoint with what torch.load and safetensors read from its files.

    Args:
        checkpoint: its index, with the model's names.
        names: the tensors that the model uses.
    """
    try:
        files = [_LibraryFile(path) for path in _weight_files(checkpoint.directory)]
        places = {name: file for file in files for name in file.names}
        for name in sorted(names):
            stored = next((known for known in _stored_names(name) if known in places), None)
            if stored is None:
                yield Misread(name, "torch.load and safetensors find no such tensor")
            else:
                yield from _compare(places[stored], stored, name, checkpoint.tensors[name])
    except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        yield Misread("", f"torch.load and safetensors do not read {checkpoint.directory}: {reason}")


def _weight_files(directory: Path) -> list[Path]:
    """The files that from_pretrained loads."""
    config = directory / "config.json"
    chosen = json.loads(config.read_bytes()).get("transformers_weights") if config.exists() else None
    first = chosen or next(name for name in _PRECEDENCE if (directory / name).exists())
    if not first.endswith(".json"):
        return [directory / first]
    weight_map = json.loads((directory / first).read_bytes())["weight_map"]
    return [directory / first.rpartition("/")[0] / file for file in sorted(set(weight_map.values()))]


def _stored_names(name: str) -> Iterator[str]:
    """The names under which from_pretrained finds a tensor of the model, likeliest first."""
    for tensor in (name, _SHARED.get(name)):
        if tensor is not None:
            yield tensor
            yield tensor.removeprefix("model.")
            yield f"model.{tensor}"


class _LibraryFile:
    """A weight file, opened by its library; no more than headers is read before rows are asked for."""

    def __init__(self, path: Path) -> None:
        self._find: Callable[[str], Any]
        self._load: Callable[[str], Any]
        if path.suffix == ".safetensors":
            file = safe_open(path, "pt", backend="pread")
            self._find, self._load = file.get_slice, file.get_tensor
            self.names: frozenset[str] = frozenset(file.keys())  # type: ignore[no-untyped-call]  # safetensors has no types
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            self._find = self._load = state.__getitem__
            self.names = frozenset(state)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        found = self._find(name)
        return tuple(found.shape if isinstance(found, torch.Tensor) else found.get_shape())

    def rows(self, name: str, begin: int, end: int) -> torch.Tensor:
        """Rows of a tensor; all of it where it has no dimensions."""
        rows: torch.Tensor = self._find(name)[begin:end] if self.shape(name) else self._load(name)
        return rows.detach()


def _compare(file: _LibraryFile, stored: str, name: str, indexed: StoredTensor) -> Iterator[Misread]:
    """At most one difference between a tensor as its library reads it and as the index describes it."""
    shape = file.shape(stored)
    if shape != indexed.shape:
        yield Misread(name, f"its library reads shape {list(shape)}, the compiler {list(indexed.shape)}")
        return
    for begin, end in _sample(shape):
        rows = file.rows(stored, begin, end)
        if str(rows.dtype) != f"torch.{indexed.dtype}":
            yield Misread(name, f"its library reads {rows.dtype}, the compiler {indexed.dtype}")
            return
        expected = rows.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        row_bytes = len(expected) // max(1, end - begin)
        with indexed.path.open("rb") as opened:
            opened.seek(indexed.offset + begin * row_bytes)
            found = opened.read(len(expected))
        if found != expected:
            yield Misread(name, f"from row {begin} on its library reads other bytes than the compiler")
            return


def _sample(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Ranges of rows that are compared."""
    if 0 in shape:
        return []
    num_rows = shape[0] if shape else 1
    if len(shape) < 2 and num_rows <= _MAX_VECTOR:
        return [(0, num_rows)]
    length = 1 if len(shape) > 1 else _MAX_VECTOR // _NUM_ROWS
    last = max(0, num_rows - length)
    starts = sorted({last * part // (_NUM_ROWS - 1) for part in range(_NUM_ROWS)})
    return [(start, min(start + length, num_rows)) for start in starts]
