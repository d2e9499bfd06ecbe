"""Reading a published checkpoint tensor by tensor: an index of where every tensor lies, and range reads.

Both formats are read with plain `pread`, never through a mapping: mapped pages would count as resident memory until
the whole checkpoint has passed by. Formats: safetensors (JSON header, https://huggingface.co/docs/safetensors), and
torch's zip files, whose pickle is read by `torch.load(weights_only=True)` without touching data.
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vamc_compiler.model.config import read_json
from vamc_runtime.errors import UserError

_SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class StoredTensor:
    """A contiguous tensor somewhere in a file."""

    path: Path
    offset: int
    """First byte, from the start of the file."""
    shape: tuple[int, ...]
    dtype: str
    """float32, float16 or bfloat16."""


@dataclass(frozen=True)
class Checkpoint:
    """Every tensor of a checkpoint, by name."""

    directory: Path
    tensors: Mapping[str, StoredTensor]

    @property
    def files(self) -> list[Path]:
        """The files that hold tensors."""
        return sorted({tensor.path for tensor in self.tensors.values()})


def _index_files(directory: Path) -> list[Path]:
    """The weight files: those of an index when there is one, else the single file.

    Raises:
        UserError: no weights, or the index names a file that is missing.
    """
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (directory / index).is_file():
            weight_map = read_json(directory / index, "the index of weight files").get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise UserError(f"{directory / index} has no 'weight_map'", expected="tensor names and files")
            files = [directory / str(name) for name in sorted(set(weight_map.values()))]
            missing = [path.name for path in files if not path.is_file()]
            if missing:
                raise UserError(
                    f"{directory / index} names weight files that are missing: {', '.join(missing)}",
                    expected=f"all {len(files)} files of the index in {directory}",
                    fix="finish the download of the checkpoint",
                )
            return files
        if (directory / single).is_file():
            return [directory / single]
    raise UserError(
        f"{directory} holds no weights",
        expected="model.safetensors or pytorch_model.bin, or an index of several such files",
        fix="finish the download of the checkpoint",
    )


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is damaged: {reason}",
        expected="a complete weight file",
        fix="download it again and compare its size with the published one",
    )


def _read_safetensors_index(path: Path) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, 100 << 20):
            raise _damaged(path, f"it has {size} bytes and a header of {length}")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise _damaged(path, f"its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    tensors: dict[str, StoredTensor] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            tensors[name] = _stored_tensor(path, name, entry, 8 + length, size)
    return tensors


def _stored_tensor(path: Path, name: str, entry: Any, data_start: int, file_bytes: int) -> StoredTensor:
    """Check one tensor's entry of a safetensors header: a damaged one must not lead to reading other bytes."""
    try:
        begin, end = map(operator.index, entry["data_offsets"])
        shape = tuple(map(operator.index, entry["shape"]))
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"], str(entry["dtype"]))
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, f"its header describes tensor {name} as {entry!r}") from None
    fits = dtype not in ITEM_BYTES or math.prod(shape) * ITEM_BYTES[dtype] == end - begin
    if begin < 0 or min(shape, default=0) < 0 or not fits:
        raise _damaged(path, f"its header describes tensor {name} as {entry!r}")
    if data_start + end > file_bytes:
        raise _damaged(path, f"tensor {name} ends at byte {data_start + end} of {file_bytes}: the file is cut off")
    return StoredTensor(path, data_start + begin, shape, dtype)


def _read_torch_index(path: Path) -> dict[str, StoredTensor]:
    """Read the pickle of a torch zip file; FakeTensorMode makes torch note offsets instead of reading data."""
    import pickle
    import zipfile

    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            legacy = file.read(2) == b"\x80\x02"
        if legacy:
            raise UserError(
                f"{path} is in torch's old format, from before 1.6",
                expected="a zip file as torch.save writes it, or safetensors",
                fix="load and save it once with a current torch",
            )
        raise _damaged(path, "it is no zip file, or it is cut off")
    try:
        with FakeTensorMode():
            state = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path} holds more than plain tensors" + (f": {what.group(1)}" if what else ""),
            expected="a state dict of tensors; code in a pickle is never run",
            fix="convert the checkpoint to safetensors on a machine where you trust it",
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from None
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}", expected="a state dict of tensors")
    size = path.stat().st_size
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise UserError(f"{path}: entry {name!r} is a {type(tensor).__name__}", expected="a tensor")
        if not tensor.is_contiguous():
            raise UserError(
                f"{path}: tensor {name!r} is stored with strides {tuple(tensor.stride())}",
                expected="contiguous tensors",
                fix="save the checkpoint again with .contiguous() tensors, or as safetensors",
            )
        storage: Any = tensor.untyped_storage()
        offset = storage._checkpoint_offset + tensor.storage_offset() * tensor.element_size()
        if offset + tensor.numel() * tensor.element_size() > size:
            raise _damaged(path, f"tensor {name} ends beyond the file")
        dtype = str(tensor.dtype).removeprefix("torch.")
        tensors[name] = StoredTensor(path, offset, tuple(tensor.shape), dtype)
    return tensors


def open_checkpoint(directory: Path) -> Checkpoint:
    """Index a checkpoint directory; reads headers only.

    Raises:
        UserError: weights are missing, cut off, damaged, or not plain tensors.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _index_files(directory):
        try:
            read = _read_safetensors_index if path.suffix == ".safetensors" else _read_torch_index
            tensors.update(read(path))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return Checkpoint(directory, tensors)


def digest_checkpoint(checkpoint: Checkpoint, names: Iterable[str]) -> str:
    """A sha256 over config.json, and name, place, shape and first and last 4 KiB of each tensor.

    Enough to tell checkpoints apart without reading all of them twice.
    """
    import hashlib

    digest = hashlib.sha256((checkpoint.directory / "config.json").read_bytes())
    for name in sorted(names):
        tensor = checkpoint.tensors[name]
        num_bytes = ITEM_BYTES[tensor.dtype]
        for size in tensor.shape:
            num_bytes *= size
        digest.update(json.dumps([name, tensor.shape, tensor.dtype]).encode())
        with tensor.path.open("rb") as file:
            digest.update(os.pread(file.fileno(), min(num_bytes, 4096), tensor.offset))
            last = max(0, num_bytes - 4096)
            digest.update(os.pread(file.fileno(), num_bytes - last, tensor.offset + last))
    return digest.hexdigest()
