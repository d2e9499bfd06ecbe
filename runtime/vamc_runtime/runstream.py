"""Opening a runstream: is it whole, does it fit this machine, which library runs here."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from dataclasses import dataclass
from pathlib import Path

from vamc_runtime.errors import UserError
from vamc_runtime.machine import AMX_TILE, cpu_features, cpu_model, request_amx
from vamc_runtime.manifest import Library, Manifest, hash_file, read_manifest
from vamc_runtime.safetensors_file import SafetensorsHeader, read_header

SMALL_FILE_BYTES = 64 << 20
"""Files up to this size are hashed at every load; larger ones only when asked."""
VM_LIBRARY = "lib/libtvm_runtime.so"
TOKENIZER_FOLDER = "tokenizer"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runstream:
    """A checked runstream directory."""

    path: Path
    manifest: Manifest

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer's files lie."""
        return self.path / TOKENIZER_FOLDER

    def weights_file(self, rank: int) -> Path:
        """The packed weights of a rank."""
        return self.path / f"rank_{rank}" / "params.safetensors"


def open_runstream(path: Path) -> Runstream:
    """Read the manifest and check that every file is there in its full size.

    Raises:
        UserError: not a runstream, another schema version, files missing or cut off.
    """
    manifest = read_manifest(path)
    problems = []
    for name, record in manifest.files.items():
        file = path / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != record.num_bytes:
            problems.append(f"{name} has {file.stat().st_size} bytes, not {record.num_bytes}")
    if problems:
        raise UserError(
            f"the runstream {path} is not whole:\n  " + "\n  ".join(problems[:8]),
            expected="every file that manifest.json lists, in full",
            fix="copy the runstream again, or compile it again",
        )
    return Runstream(path, manifest)


def _check_hash(runstream: Runstream, name: str) -> None:
    if hash_file(runstream.path / name) != runstream.manifest.files[name].sha256:
        raise UserError(
            f"{runstream.path / name} is damaged: its sha256 is not the one in manifest.json",
            expected="the file as it was compiled",
            fix="copy the runstream again, or compile it again",
        )


def check_hashes(runstream: Runstream, *, everything: bool) -> None:
    """Compare files with the sha256 in the manifest: the small ones, or all.

    Raises:
        UserError: a file was changed.
    """
    for name, record in runstream.manifest.files.items():
        if everything or record.num_bytes <= SMALL_FILE_BYTES:
            _check_hash(runstream, name)


def check_toolchain(runstream: Runstream) -> None:
    """Compare the installed tvm-ffi with the one the libraries were built against.

    Raises:
        UserError: another version, whose binary interface may differ.
    """
    built = runstream.manifest.toolchain.get("apache-tvm-ffi", "")
    installed = importlib.metadata.version("apache-tvm-ffi")
    if built != installed:
        raise UserError(
            f"the runstream was built against apache-tvm-ffi {built}, and {installed} is installed",
            expected="the same version: its binary interface moves between releases",
            fix=f"pip install apache-tvm-ffi=={built}, or compile the runstream again",
        )


def choose_library(runstream: Runstream) -> Library:
    """The library for the most capable CPU that this machine's CPU can stand in for.

    One that uses the tile unit (AMX) is taken only where Linux grants it and its products were tried and are right.

    Raises:
        UserError: this CPU lacks instructions that every library uses, or its tile unit cannot be used.
    """
    machine, present = platform.machine(), cpu_features()
    refused = []
    for library in sorted(runstream.manifest.libraries, key=lambda each: len(each.requires), reverse=True):
        lacks = [library.machine] if library.machine != machine else sorted(set(library.requires) - present)
        mistake = "" if lacks or AMX_TILE not in library.requires else _amx_mistake(runstream, library)
        if not lacks and not mistake:
            return library
        if mistake:
            _log.warning("vamc: not using the library for %s: the tile unit (AMX): %s", library.mcpu, mistake)
        refused.append(f"  {library.mcpu} needs {', '.join(lacks) or f'AMX: {mistake}'}")
    raise UserError(
        f"this CPU ({cpu_model()}) lacks what the runstream's libraries use:\n" + "\n".join(refused),
        expected="a CPU with these features",
        fix="compile with backend.target.mcpu naming a lower level, such as [x86-64-v3]",
    )


def _amx_mistake(runstream: Runstream, library: Library) -> str:
    """Why a library's tile code is not to be used on this machine; empty where it is right."""
    from vamc_runtime.amx_check import find_mistake_once  # most machines never need it

    if not request_amx():
        return "Linux does not grant it to this process"
    code = runstream.manifest.files[library.file].sha256
    return find_mistake_once(runstream.path / VM_LIBRARY, runstream.path / library.file, library.requires, code)


def check_rank_weights(runstream: Runstream, rank: int) -> SafetensorsHeader:
    """Check that a rank's weights are its own and of this runstream, before anything is computed with them.

    Raises:
        UserError: the file belongs to another rank, another tensor-parallel degree or another checkpoint.
    """
    manifest = runstream.manifest
    header = read_header(runstream.weights_file(rank))
    expected = {
        "rank": str(rank),
        "ranks": str(manifest.tensor_parallel),
        "checkpoint": manifest.checkpoint.digest,
    }
    for key, value in expected.items():
        if header.metadata.get(key) != value:
            raise UserError(
                f"{header.path} holds the weights of {key} {header.metadata.get(key)}",
                expected=f"{key} {value}",
                fix="files of ranks or runstreams were mixed up: copy the runstream again, or compile it again",
            )
    missing = [name for name in manifest.parameters if name not in header.tensors]
    if missing:
        raise UserError(f"{header.path} lacks {missing[0]}", fix="compile the runstream again")
    return header
