"""`manifest.json`: what a runstream holds, and what it takes to run it.

The compiler writes it, the runtime reads it; both through the classes here. The schema version changes when an older
runtime could misread a newer runstream, or the other way round.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vamc_runtime.errors import UserError

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """The model's sizes, as in its configuration (before padding and splitting)."""

    label: str
    """Name of the family, for people."""
    model_type: str
    """`model_type` of config.json."""
    vocab_size: int
    """Token ids are 0 .. vocab_size - 1."""
    hidden_size: int
    """Width of the residual stream."""
    num_layers: int
    """Decoder layers."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key/value heads."""
    num_parameters: int
    """Elements of all weights, over all ranks, without duplicates and padding."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How numbers are stored."""

    weights: str
    """fp16 or int8: `backend.dtype`."""
    quantization: str | None
    """`frontend.quantize.type`; None for fp16."""
    activations: str
    """Type of activations and sums."""
    kv_cache: str
    """Type of cached keys and values."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one step and one sequence may hold."""

    max_prefill_tokens: int
    """Most tokens in one step."""
    max_context_tokens: int
    """Longest prompt and output together, in tokens."""


@dataclass(frozen=True, kw_only=True)
class KVCacheLayout:
    """Shape of the cache pages of one layer on one rank: float16 [pages, 2, num_heads, page_tokens, head_dim]."""

    num_layers: int
    """Layers, each with its own pages tensor."""
    num_heads: int
    """Key/value heads per rank, padding and replicas included."""
    page_tokens: int
    """Tokens per page."""
    head_dim: int
    """Width of one head."""

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers of one rank."""
        return self.num_layers * 2 * self.num_heads * self.page_tokens * self.head_dim * 2


@dataclass(frozen=True, kw_only=True)
class Library:
    """One compiled library."""

    file: str
    """Path in the runstream."""
    mcpu: str
    """LLVM's name of the CPU it was compiled for."""
    machine: str
    """`platform.machine()` of the CPUs that run it."""
    requires: tuple[str, ...]
    """CPU features, as named in /proc/cpuinfo, that it uses."""


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size and content of one file."""

    num_bytes: int
    """Size in bytes."""
    sha256: str
    """sha256 of the content, hex."""


@dataclass(frozen=True, kw_only=True)
class SourceCheckpoint:
    """Where the weights came from."""

    path: str
    """Directory at compile time."""
    digest: str
    """sha256 over config.json and a sample of every tensor (`vamc_compiler.weights.checkpoint`)."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of manifest.json."""

    schema_version: int
    """SCHEMA_VERSION of the compiler that wrote it."""
    name: str
    """`name` of the build config."""
    model: ModelDescription
    precision: Precision
    tensor_parallel: int
    """Number of ranks."""
    limits: Limits
    kv_cache: KVCacheLayout
    libraries: tuple[Library, ...]
    parameters: tuple[str, ...]
    """Names of the weights in the order of the step's parameter tuple."""
    files: dict[str, FileRecord]
    """Every file of the runstream by its path in it; manifest.json and intermediates are not listed."""
    toolchain: dict[str, str]
    """Package versions at compile time."""
    checkpoint: SourceCheckpoint
    settings: dict[str, Any]
    """The build config's effective settings."""

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


T = TypeVar("T")


def _build(kind: Any, value: Any, where: str) -> Any:
    """Check `value` against a type annotation and build it; a manifest is data from outside."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build_record(kind, value, where)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _build(typing.get_args(kind)[0], value, where)
    if origin is tuple and isinstance(value, list):
        item = typing.get_args(kind)[0]
        return tuple(_build(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, dict):
        item = typing.get_args(kind)[1]
        return {k: _build(item, v, f"{where}.{k}") for k, v in value.items()}
    if origin is None and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(
        f"{where} is {value!r}",
        expected=getattr(kind, "__name__", str(kind)),
        fix="the manifest was damaged or edited: compile again",
    )


def _build_record(kind: type[T], value: Any, where: str) -> T:
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}", expected="an object", fix="compile the runstream again")
    hints = typing.get_type_hints(kind)
    missing = sorted(hints.keys() - value.keys())
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}", fix="compile the runstream again")
    return kind(**{name: _build(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


def hash_file(path: Path) -> str:
    """sha256 of a file's content, hex, as `FileRecord` holds it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(runstream: Path) -> Manifest:
    """Read and check the manifest of a runstream directory.

    Raises:
        UserError: not a runstream, a damaged manifest, or another schema version.
    """
    path = runstream / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{runstream} is not a runstream: it has no {FILE_NAME}",
            expected="a directory that `vamc compile` wrote, <workspace.path>/<name>",
            fix="check the path; `vamc compile CONFIG` prints it at the end",
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix="compile the runstream again") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise UserError(
            f"{path} has schema version {version}",
            expected=f"version {SCHEMA_VERSION}, which this runtime reads",
            fix="update vamc on this machine" if newer else "compile the runstream again with this version",
        )
    return _build_record(Manifest, content, str(path))
