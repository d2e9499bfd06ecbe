"""`manifest.json`: what a runstream holds, and what it takes to run it.

The compiler writes it, the runtime reads it; both through the classes here. The schema version changes when an older
runtime could misread a newer runstream, or the other way round.

The file ends with a digest of everything else in it. It tells damage and careless edits, as the sha256 of every other
file does; it is no signature, since whoever can write the runstream can compute it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vamc_runtime.errors import UserError
from vamc_runtime.manifest_checks import find_problems
from vamc_runtime.records import COPY_OR_COMPILE, build_record, parse_versioned, read_content

SCHEMA_VERSION = 2
FILE_NAME = "manifest.json"
DIGEST_KEY = "digest"
LARGE_FILE_BYTES = 64 << 20
"""Files above this size are hashed in pieces too."""
PIECE_BYTES = 32 << 20


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
    piece_sha256: tuple[str, ...] = ()
    """sha256 of every PIECE_BYTES of a file above LARGE_FILE_BYTES, which all cores compare at once; else none."""

    @property
    def num_pieces(self) -> int:
        """How many a file of this size has."""
        return -(-self.num_bytes // PIECE_BYTES) if self.num_bytes > LARGE_FILE_BYTES else 0


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

    @property
    def step_digest(self) -> str:
        """sha256, hex, over what the compiled step was made for; every rank's weights carry it too.

        Compiled code reads memory as these numbers told the compiler: a runstream that says others beside weights of
        the same checkpoint would read where nothing is.
        """
        records = [dataclasses.asdict(part) for part in (self.model, self.precision, self.limits, self.kv_cache)]
        return _digest([*records, self.tensor_parallel, self.parameters])

    @property
    def digest(self) -> str:
        """sha256, hex, of the whole manifest, as the file carries it: tells one runstream from every other."""
        return digest_of(dataclasses.asdict(self))

    def rank_metadata(self, rank: int) -> dict[str, str]:
        """What a rank's weight file says about itself, so that no rank ever runs another's weights."""
        return {
            "format": "vamc",
            "rank": str(rank),
            "ranks": str(self.tensor_parallel),
            "checkpoint": self.checkpoint.digest,
            "step": self.step_digest,
        }

    def to_dict(self) -> dict[str, Any]:
        """The file's content, its digest included."""
        return dataclasses.asdict(self) | {DIGEST_KEY: self.digest}

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"


def digest_of(content: Mapping[str, Any]) -> str:
    """sha256, hex, over what a manifest holds but its digest, written as JSON with sorted keys and no blanks."""
    rest = {key: value for key, value in content.items() if key != DIGEST_KEY}
    return _digest(rest)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
        UserError: not a runstream, a damaged or edited manifest, another schema version, or values that no runstream
            has.
    """
    path = runstream / FILE_NAME
    try:
        content = parse_versioned(read_content(path), path, SCHEMA_VERSION)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{runstream} is not a runstream: it has no {FILE_NAME}",
            expected="a directory that `vamc compile` wrote, <workspace.path>/<name>",
            fix="check the path; `vamc compile CONFIG` prints it at the end",
        ) from None
    if content.get(DIGEST_KEY) != digest_of(content):
        raise UserError(
            f"{path} is damaged or was edited: its digest is not that of its content",
            expected="the file as `vamc compile` wrote it",
            fix=f"{COPY_OR_COMPILE}; settings are changed in the build config",
        )
    manifest = build_record(Manifest, content, str(path))
    problems = find_problems(manifest)
    if problems:
        raise UserError(
            f"{path} describes a runstream that cannot be:\n  " + "\n  ".join(problems[:8]),
            expected="the file as `vamc compile` wrote it",
            fix=COPY_OR_COMPILE,
        )
    return manifest
