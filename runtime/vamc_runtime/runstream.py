"""Opening a runstream: is it whole, does it fit this machine, which library runs here."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import logging
import platform
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vamc_runtime.arrays import ALIGNMENT_BYTES
from vamc_runtime.errors import UserError
from vamc_runtime.file_content import check_content, damaged, unreadable
from vamc_runtime.machine import AMX_TILE, cpu_features, cpu_model, request_amx
from vamc_runtime.manifest import FileRecord, Library, Manifest, read_manifest
from vamc_runtime.manifest_checks import VM_LIBRARY, weights_name
from vamc_runtime.records import COPY_OR_COMPILE
from vamc_runtime.safetensors_file import SafetensorsHeader, is_pad, read_header
from vamc_runtime.stored_path import StoredPath
from vamc_runtime.strict_json import shown

TOKENIZER_FOLDER = "tokenizer"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runstream:
    """A checked runstream directory. Only files that its manifest lists are ever opened."""

    path: Path
    manifest: Manifest
    _contents: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def weights_file(self, rank: int) -> Path:
        """The packed weights of a rank."""
        return self.path / weights_name(rank)

    def read(self, name: str) -> bytes:
        """The content of a small file, as it was compiled; read once, so that it stays as it was checked.

        Args:
            name: its path in the runstream; listed.

        Raises:
            UserError: it cannot be read, or was changed.
        """
        if name not in self._contents:
            path, record = self.path / name, self.manifest.files[name]
            try:
                with path.open("rb") as file:
                    content = file.read(record.num_bytes + 1)
            except OSError as error:
                raise unreadable(path, error) from error
            if hashlib.sha256(content).hexdigest() != record.sha256:
                raise damaged(path)
            self._contents[name] = content
        return self._contents[name]

    def was_read(self, name: str) -> bool:
        """Whether a file's content is known to be right because it was read."""
        return name in self._contents

    def tokenizer_folder(self) -> StoredPath:
        """The tokenizer's files, all of them read now.

        Raises:
            UserError: one cannot be read, or was changed.
        """
        names = [name for name in self.manifest.files if name.startswith(f"{TOKENIZER_FOLDER}/")]
        return StoredPath(self.path / TOKENIZER_FOLDER, {self.path / name: self.read(name) for name in names})


def open_runstream(path: Path) -> Runstream:
    """Read the manifest and check that every file is there in its full size.

    Raises:
        UserError: not a runstream, another schema version, files missing or cut off.
    """
    manifest = read_manifest(path)
    found = (_size_problem(path, name, record) for name, record in manifest.files.items())
    problems = [problem for problem in found if problem]
    if problems:
        raise UserError(
            f"the runstream {path} is not whole:\n  " + "\n  ".join(problems[:8]),
            expected="every file that manifest.json lists, in full",
            fix="copy the runstream again, or compile it again",
        )
    return Runstream(path, manifest)


def _size_problem(runstream: Path, name: str, record: FileRecord) -> str:
    """What is wrong with a file as far as its size tells; empty where nothing is."""
    try:
        status = (runstream / name).stat()
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return f"{name} is missing"
    return "" if status.st_size == record.num_bytes else f"{name} has {status.st_size} bytes, not {record.num_bytes}"


def check_hashes(runstream: Runstream, *, everything: bool) -> None:
    """Compare files with the sha256 in the manifest.

    Args:
        runstream: opened.
        everything: every file, now. Else weights of more than LARGE_FILE_BYTES are left to those who load them, and
            other files of that size are compared only where they are not known from an earlier time.

    Raises:
        UserError: a file was changed.
    """
    weights = {weights_name(rank) for rank in range(runstream.manifest.tensor_parallel)}
    for name, record in runstream.manifest.files.items():
        left_to_others = name in weights if record.num_pieces else runstream.was_read(name)
        if everything or not left_to_others:
            check_content(runstream.path / name, record, trust_known=not everything)


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
        UserError: the file belongs to another rank, another tensor-parallel degree or another checkpoint, is damaged,
            or holds other tensors than the step takes.
    """
    manifest = runstream.manifest
    header = read_header(runstream.weights_file(rank))
    expected = manifest.rank_metadata(rank)
    for key in ("rank", "ranks", "checkpoint"):
        value = expected[key]
        if header.metadata.get(key) != value:
            raise UserError(
                f"{header.path} holds the weights of {key} {header.metadata.get(key)}",
                expected=f"{key} {value}",
                fix="files of ranks or runstreams were mixed up: copy the runstream again, or compile it again",
            )
    _check_tensors(header, manifest.parameters)
    if header.metadata.get("step") != expected["step"]:
        raise UserError(
            f"{header.path} holds weights for another step than manifest.json describes",
            expected="the weights of the same build: its model, precision, limits and KV cache",
            fix="files of runstreams were mixed up, or one was edited: copy the runstream again, or compile it again",
        )
    return header


def _check_tensors(header: SafetensorsHeader, parameters: Sequence[str]) -> None:
    """Compare a rank's tensors with the parameters of the step, which takes them by their place, not by name.

    Raises:
        UserError: one is missing, there are others, they stand in another order, or one is not aligned.
    """
    missing = [name for name in parameters if name not in header.tensors]
    if missing:
        raise UserError(f"{header.path} lacks {shown(missing[0])}", fix=COPY_OR_COMPILE)
    stored = [name for name in header.tensors if not is_pad(name)]
    for name, parameter in itertools.zip_longest(stored, parameters):
        if name != parameter:
            raise UserError(
                f"{header.path} has the tensor {shown(name)} where manifest.json has {shown(parameter)}",
                expected="the tensors that manifest.json lists, in its order",
                fix=COPY_OR_COMPILE,
            )
        if (header.data_start + header.tensors[name].begin) % ALIGNMENT_BYTES:
            raise damaged(header.path, f"{shown(name)} does not begin at a multiple of {ALIGNMENT_BYTES} bytes")
