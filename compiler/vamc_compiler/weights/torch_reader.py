"""Where the tensors of a file from `torch.save` lie: its pickle is read, its data is not touched.

The pickle goes through the unpickler of `torch.load(weights_only=True)` with torch's own functions for rebuilding
tensors, so that a tensor is what torch makes of it; only its storages have no memory here, and are noted by the record
that holds them. Follows torch/serialization.py, `_load`, torch 2.13.

torch does not check, in all ways of loading, that a record is as long as its storage, nor that a view lies inside its
storage (it makes the storage longer, with whatever memory holds). Both are refused.
"""

from __future__ import annotations

import pickletools
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vamc_compiler.show import one_line
from vamc_compiler.torch_internals import storage_address, typed_storage, weights_only_unpickler
from vamc_compiler.weights.stored_tensor import StoredTensor, damaged
from vamc_compiler.weights.torch_archive import Record, TorchArchive, open_torch_archive
from vamc_runtime.errors import UserError
from vamc_runtime.git_lfs import refuse_lfs_pointer

_ZIP_MARK, _OLD_MARKS = b"PK\x03\x04", (b"\x80\x02", b"ustar")
_MAX_PICKLE_BYTES = 256 << 20
"""The pickle of a state dict has some 100 bytes for each tensor."""
_SETTING_BYTES = 16
"""More than the records have that say how an archive was written."""
_PLAIN = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor(_v[23])?|parameter(_with_state)?)"
    r"|torch\._tensor _rebuild_from_type_v2|torch\.nn\.parameter Parameter|torch Tensor"
    r"|torch\.storage UntypedStorage|torch \w+Storage|torch u?(int|float|bfloat|complex)\w+|torch bool"
)
"""What the pickle of plain tensors names, as `module name`; torch's unpickler knows more, for other contents."""


def read_torch_file(path: Path) -> dict[str, StoredTensor]:
    """Index a file.

    Raises:
        UserError: it is damaged, a Git LFS pointer, in the old format, big-endian, or holds more than plain tensors.
        OSError: it cannot be read.
    """
    _check_container(path)
    archive = open_torch_archive(path)
    _check_settings(archive)
    if "constants.pkl" in archive.records:
        raise UserError(
            f"{path} is a TorchScript archive",
            expected="a state dict of tensors, as torch.save writes it",
            fix="save model.state_dict() of the loaded module, or as safetensors",
        )
    storages = _Storages(archive)
    state = _unpickle(archive, storages)
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}", expected="a state dict of tensors")
    return dict(_stored_tensors(path, state, storages))


def _check_container(path: Path) -> None:
    """Tell apart what a `.bin` file may be besides a zip file, by its first bytes, as torch does."""
    with path.open("rb") as file:
        beginning = file.read(512)
    refuse_lfs_pointer(path, beginning)
    if beginning.startswith(_ZIP_MARK):
        return
    if beginning.startswith(_OLD_MARKS[0]) or beginning[257:].startswith(_OLD_MARKS[1]):
        raise UserError(
            f"{path} is in torch's old format, from before 1.6",
            expected="a zip file as torch.save writes it, or safetensors",
            fix="load and save it once with a current torch",
        )
    raise damaged(path, "it is not a zip file, or it is cut off")


def _check_settings(archive: TorchArchive) -> None:
    """Refuse what the small records say that torch, or this reader, does not take."""
    settings = {
        name: archive.read(name) if archive.records[name].num_bytes <= _SETTING_BYTES else b""
        for name in ("byteorder", ".storage_alignment")
        if name in archive.records
    }
    if not settings.get(".storage_alignment", b"64").isdigit():
        raise damaged(archive.path, "its record .storage_alignment is not a number")
    order = settings.get("byteorder", b"little")  # files from before torch 2.1 have none
    if order == b"big":
        raise UserError(
            f"{archive.path} was saved on a big-endian machine",
            expected="little-endian weights",
            fix="load and save it once with torch on this machine, or convert it to safetensors",
        )
    if order != b"little":
        raise damaged(archive.path, "its byteorder record says neither little nor big")


@dataclass
class _Storages:
    """The storages that a pickle asks for, without memory."""

    archive: TorchArchive
    by_key: dict[str, Any] = field(default_factory=dict)
    """A typed storage for each key: the first use of a key decides its type and size, as in torch."""
    places: dict[int, tuple[Record, int]] = field(default_factory=dict)
    """Record and bytes of a storage, by the address of its C++ object."""

    def load(self, identity: Any) -> Any:
        """The unpickler's `persistent_load`."""
        _, storage_type, key, _, num_elements = identity
        if key not in self.by_key:
            dtype = torch.uint8 if storage_type is torch.UntypedStorage else storage_type.dtype
            num_bytes = num_elements * dtype.itemsize
            record = self.archive.records.get(f"data/{key}")
            if record is None or record.num_bytes != num_bytes:
                held = "is missing" if record is None else f"has {record.num_bytes} bytes"
                raise damaged(self.archive.path, f"record data/{key} of {num_bytes} bytes {held}")
            self.by_key[key], address = typed_storage(num_bytes, dtype)
            self.places[address] = record, num_bytes
        return self.by_key[key]


def _unpickle(archive: TorchArchive, storages: _Storages) -> Any:
    record = archive.records.get("data.pkl")
    if record is not None and record.num_bytes > _MAX_PICKLE_BYTES:
        raise damaged(archive.path, f"its pickle has {record.num_bytes} bytes")
    content = archive.read("data.pkl")
    _check_globals(archive.path, content)
    unpickler = weights_only_unpickler(content)
    unpickler.persistent_load = storages.load
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of the pickle
            return unpickler.load()
    except UserError:
        raise
    except Exception as error:  # what a damaged pickle makes an unpickler do has no limits
        reason = one_line(f"{type(error).__name__}: {error}".splitlines()[0])
        raise damaged(archive.path, f"its pickle cannot be read ({reason})") from None


def _check_globals(path: Path, content: bytes) -> None:
    """Refuse a pickle that names more than plain tensors need, before anything of it is built."""
    try:
        named = [str(argument) for opcode, argument, _ in pickletools.genops(content) if opcode.name == "GLOBAL"]
    except Exception as error:  # like an unpickler's
        raise damaged(path, f"its pickle cannot be read ({one_line(str(error))})") from None
    for name in named:
        if not _PLAIN.fullmatch(name):
            raise UserError(
                f"{path} holds more than plain tensors: {one_line(name.replace(' ', '.'))}",
                expected="a state dict of tensors; code in a pickle is never run",
                fix="convert the checkpoint to safetensors on a machine where you trust it",
            )


def _stored_tensors(
    path: Path, state: Mapping[object, object], storages: _Storages
) -> Iterator[tuple[str, StoredTensor]]:
    """The entries of a state dict, each a plain tensor that lies in one piece inside its storage."""
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise UserError(f"{path} names a tensor {name!r}", expected="names that are text")
        if not isinstance(tensor, torch.Tensor):
            raise UserError(f"{path}: entry {name!r} is a {type(tensor).__name__}", expected="a tensor")
        yield name, _stored_tensor(path, name, tensor, storages)


def _stored_tensor(path: Path, name: str, tensor: torch.Tensor, storages: _Storages) -> StoredTensor:
    if tensor.is_neg() or tensor.is_conj():
        raise UserError(
            f"{path}: tensor {name!r} is stored as a negated or conjugated view",
            expected="plain tensors",
            fix="save the checkpoint again with .resolve_neg() and .resolve_conj() tensors, or as safetensors",
        )
    place = storages.places.get(storage_address(tensor.untyped_storage()))
    if place is None:
        raise damaged(path, f"tensor {name!r} has no storage in the file")
    if not tensor.is_contiguous():
        raise UserError(
            f"{path}: tensor {name!r} is stored with strides {tuple(tensor.stride())}",
            expected="contiguous tensors",
            fix="save the checkpoint again with .contiguous() tensors, or as safetensors",
        )
    record, num_bytes = place
    begin = int(tensor.storage_offset()) * tensor.element_size()
    if begin + tensor.numel() * tensor.element_size() > num_bytes:
        raise damaged(path, f"tensor {name!r} ends beyond its storage")
    dtype = str(tensor.dtype).removeprefix("torch.")
    return StoredTensor(path, record.offset + begin, tuple(tensor.shape), dtype)
