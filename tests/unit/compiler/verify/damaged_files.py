"""Changing stored weights the way a fault in the compiler would: the manifest's records fit what lies there."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_compiler.verify.subject import Subject
from vamc_runtime.manifest import FileRecord, hash_file, read_manifest
from vamc_runtime.safetensors_file import read_header, tensor_views

Damage = Callable[[npt.NDArray[Any]], None]


def damage_weight(runstream: Path, name: str, damage: Damage, rank: int = 0) -> None:
    """Change a tensor in place, packed as it is stored."""
    key = f"rank_{rank}/params.safetensors"
    file = np.memmap(runstream / key, np.uint8, "r+")
    damage(dict(tensor_views(read_header(runstream / key), file))[name])
    file.flush()
    record_again(runstream, key)


def record_again(runstream: Path, key: str) -> None:
    """Let the manifest's record of a file fit what lies there."""
    manifest = read_manifest(runstream)
    record = FileRecord(num_bytes=(runstream / key).stat().st_size, sha256=hash_file(runstream / key))
    fitting = dataclasses.replace(manifest, files={**manifest.files, key: record})
    (runstream / "manifest.json").write_text(fitting.to_json(), encoding="utf-8")


def copied(subject: Subject, directory: Path) -> Subject:
    """The same build with a runstream of its own."""
    shutil.copytree(subject.runstream, directory / "runstream")
    return dataclasses.replace(subject, runstream=directory / "runstream")


def larger(values: npt.NDArray[Any]) -> None:
    """Every value of the first panel, or of all rows where nothing is packed, half as large again."""
    part = values[0] if values.ndim == 3 else values
    part[...] = (part.astype(np.float32) * 1.5).astype(values.dtype)
