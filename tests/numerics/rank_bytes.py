"""Bytes of a runstream's rank files, changed: what a broken disk, script or writer could have left there."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from vamc_compiler.package import write_manifest
from vamc_runtime.manifest import FileRecord, Manifest, hash_file, read_manifest
from vamc_runtime.safetensors_file import DTYPES, read_header


def _rank_file(runstream: Path, rank: int) -> Path:
    return runstream / f"rank_{rank}" / "params.safetensors"


def give_shard(runstream: Path, *, giver: int, taker: int) -> None:
    """Put one rank's file in another's place, under the other's name: the loader takes it."""
    content = _rank_file(runstream, giver).read_bytes()
    mine, theirs = (f'"rank":"{rank}"'.encode() for rank in (giver, taker))
    assert content.count(mine) == 1, "the file says once whose it is"
    _rank_file(runstream, taker).write_bytes(content.replace(mine, theirs))


def _tensor(runstream: Path, rank: int, name: str) -> np.memmap[Any, Any]:
    """A parameter as it is stored, in the file."""
    header = read_header(_rank_file(runstream, rank))
    entry = header.tensors[name]
    tensor = np.memmap(
        header.path,
        DTYPES[entry.dtype],
        "r+",
        offset=header.data_start + entry.begin,
        shape=entry.shape,
    )
    assert tensor.size == math.prod(entry.shape)
    return tensor


def roll_channels(runstream: Path, rank: int, name: str) -> None:
    """Give every channel the number of the one before it."""
    tensor = _tensor(runstream, rank, name)
    tensor[:] = np.roll(tensor, 1)
    tensor.flush()


def swap_panels(runstream: Path, rank: int, name: str) -> None:
    """Let the first two panels of a packed weight change places."""
    tensor = _tensor(runstream, rank, name)
    tensor[:2] = tensor[1::-1].copy()
    tensor.flush()


def record_again(runstream: Path) -> Manifest:
    """Write the files' sizes and hashes into the manifest once more, so that nothing but the content is wrong."""
    manifest = read_manifest(runstream)
    files = {
        name: FileRecord(num_bytes=(runstream / name).stat().st_size, sha256=hash_file(runstream / name))
        for name in manifest.files
    }
    manifest = dataclasses.replace(manifest, files=files)
    write_manifest(manifest, runstream)
    return manifest
