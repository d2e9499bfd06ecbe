"""A published checkpoint as an index of its tensors: where each lies, read from headers alone.

One file per container knows the format: `safetensors_reader.py` and `torch_reader.py`; `weight_files.py` chooses the
files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vamc_compiler.weights.meaningless import why_meaningless
from vamc_compiler.weights.safetensors_reader import read_safetensors
from vamc_compiler.weights.stored_tensor import StoredTensor, read_exactly
from vamc_compiler.weights.weight_files import WeightFiles, find_weight_files, list_some
from vamc_runtime.errors import UserError

_DIGEST_BYTES = 4096
"""How much of each end of a tensor the digest of a checkpoint sees."""


@dataclass(frozen=True)
class Checkpoint:
    """Every tensor of a checkpoint, by name."""

    directory: Path
    tensors: Mapping[str, StoredTensor]
    """By the name that the model has for it, once `fit.py` has seen the model; by its stored name before."""
    stored_names: Mapping[str, str] = field(default_factory=dict)
    """The stored name of each tensor whose name in `tensors` is another one."""

    @property
    def files(self) -> list[Path]:
        """The files that hold tensors."""
        return sorted({tensor.path for tensor in self.tensors.values()})


def open_checkpoint(directory: Path) -> Checkpoint:
    """Index a checkpoint directory; reads headers only.

    Raises:
        UserError: weights are missing, cut off, damaged, or not plain tensors.
    """
    path = directory
    tensors: dict[str, StoredTensor] = {}
    try:
        files = find_weight_files(directory)
        for path in files.paths:
            _add(tensors, _read(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    _check_index(files, tensors)
    return Checkpoint(directory, tensors)


def _read(path: Path) -> dict[str, StoredTensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    from vamc_compiler.weights.torch_reader import read_torch_file  # torch takes long to import

    return read_torch_file(path)


def _add(tensors: dict[str, StoredTensor], found: Mapping[str, StoredTensor]) -> None:
    """Join the tensors of another file to those of the files before it."""
    twice = sorted(tensors.keys() & found.keys())
    if twice:
        paths = f"{tensors[twice[0]].path} and {found[twice[0]].path.name}"
        raise UserError(
            f"{paths} both hold {list_some(twice)}",
            expected="every tensor in one file",
            fix="remove files that belong to another save of the model, or download the checkpoint again",
        )
    tensors.update(found)


def _check_index(files: WeightFiles, tensors: Mapping[str, StoredTensor]) -> None:
    """Compare what an index says with what its files hold."""
    problems = []
    for name, path in files.weight_map.items():
        if name not in tensors:
            if not why_meaningless(name):
                problems.append(f"{name} is missing from {path.name}")
        elif tensors[name].path != path:
            problems.append(f"{name} is in {tensors[name].path.name}, not in {path.name}")
    if problems:
        raise UserError(
            f"{files.index} does not fit the files that it lists:\n  " + list_some(problems, "\n  "),
            expected="index and files of one save of the model",
            fix="download the checkpoint again, or write the index again",
        )


def digest_checkpoint(checkpoint: Checkpoint, names: Iterable[str]) -> str:
    """A sha256 over config.json, and name, shape, type and first and last 4 KiB of each tensor.

    Enough to tell checkpoints apart without reading all of them twice.

    Raises:
        UserError: a file became shorter.
        OSError: a file cannot be read.
    """
    import hashlib

    digest = hashlib.sha256((checkpoint.directory / "config.json").read_bytes())
    for name in sorted(names):
        tensor = checkpoint.tensors[name]
        digest.update(json.dumps([name, tensor.shape, tensor.dtype]).encode())
        length = min(tensor.num_bytes, _DIGEST_BYTES)
        last = max(0, tensor.num_bytes - _DIGEST_BYTES)
        with tensor.path.open("rb") as file:
            digest.update(read_exactly(file.fileno(), length, tensor.offset, tensor.path))
            digest.update(read_exactly(file.fileno(), tensor.num_bytes - last, tensor.offset + last, tensor.path))
    return digest.hexdigest()
