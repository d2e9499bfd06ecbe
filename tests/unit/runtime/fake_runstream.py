"""Runstream directories that are right in every respect but the compiled code, built in a moment, for tests."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_runtime.manifest import (
    FileRecord,
    KVCacheLayout,
    Library,
    Limits,
    Manifest,
    ModelDescription,
    Precision,
    SourceCheckpoint,
)

DIGEST = "a1" * 32
_FORMAT_NAMES = {"float32": "F32", "float16": "F16"} | {
    f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32)
}


def write_safetensors(
    path: Path,
    tensors: Mapping[str, npt.NDArray[Any]],
    metadata: Mapping[str, str],
    *,
    alignment: int = 64,
) -> None:
    """A safetensors file whose tensors start at multiples of `alignment` bytes, with pad tensors in the gaps."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    data = b""
    for name, tensor in tensors.items():
        end = len(data) + tensor.nbytes
        shape = list(tensor.shape)
        header[name] = {
            "dtype": _FORMAT_NAMES[str(tensor.dtype)],
            "shape": shape,
            "data_offsets": [len(data), end],
        }
        data += tensor.tobytes()
        if pad := -end % alignment:
            header[f"__pad_{name}"] = {"dtype": "U8", "shape": [pad], "data_offsets": [end, end + pad]}
            data += b"\xee" * pad
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(8 + len(encoded)) % alignment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


def rank_tensors(rank: int) -> dict[str, npt.NDArray[Any]]:
    """Weights that differ between ranks; odd sizes, so that pads are needed."""
    values = np.random.default_rng(rank)
    return {
        "model.embed.weight": values.standard_normal((5, 3)).astype(np.float16),
        "model.head.weight": values.integers(-128, 128, (7, 3)).astype(np.int8),
        "model.head.scale": values.standard_normal(7).astype(np.float32),
    }


def write_rank(
    runstream: Path, rank: int, num_ranks: int, digest: str = DIGEST, *, step: str = "0" * 64, large: bool = False
) -> None:
    """A rank's weight file; a large one has more than 64 MiB, most of them in a last tensor `model.large`."""
    metadata = {"format": "vamc", "rank": str(rank), "ranks": str(num_ranks), "checkpoint": digest, "step": step}
    tensors = rank_tensors(rank)
    if large:
        tensors["model.large"] = np.zeros(65 << 20, np.int8)
    write_safetensors(runstream / f"rank_{rank}" / "params.safetensors", tensors, metadata)


def build_large(path: Path) -> Manifest:
    """A runstream of one rank whose weights are hashed in pieces."""
    manifest = build(path, parameters=(*rank_tensors(0), "model.large"))
    write_rank(path, 0, 1, step=manifest.step_digest, large=True)
    return write_manifest(path, manifest)


def library(mcpu: str = "any", requires: Sequence[str] = (), machine: str | None = None) -> Library:
    """A library for this machine unless another is named."""
    machine = platform.machine() if machine is None else machine
    return Library(file=f"lib/model.{mcpu}.so", mcpu=mcpu, machine=machine, requires=tuple(requires))


def make_manifest(**changes: Any) -> Manifest:
    """The manifest of the directory that `build` writes, with fields replaced; it lists no files."""
    manifest = Manifest(
        schema_version=2,
        name="fake",
        model=ModelDescription(
            label="Fake",
            model_type="fake",
            vocab_size=400,
            hidden_size=3,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            num_parameters=43,
        ),
        precision=Precision(weights="int8", quantization="int8_per_channel", activations="float32", kv_cache="float16"),
        tensor_parallel=1,
        limits=Limits(max_prefill_tokens=8, max_context_tokens=64),
        kv_cache=KVCacheLayout(num_layers=2, num_heads=2, page_tokens=4, head_dim=8),
        libraries=(library(),),
        parameters=tuple(rank_tensors(0)),
        files={},
        toolchain={"apache-tvm-ffi": importlib.metadata.version("apache-tvm-ffi")},
        checkpoint=SourceCheckpoint(path="/checkpoints/fake", digest=DIGEST),
        settings={},
    )
    manifest = replace(manifest, **changes)
    if "settings" in changes:
        return manifest
    limits = manifest.limits
    shape = {"input_ids": [[limits.max_prefill_tokens], [limits.max_context_tokens]]}
    return replace(manifest, settings={"name": manifest.name, "frontend": {"shape": shape}})


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a manifest with the digest that it should have: of itself without one, in the canonical form."""
    rest = {key: content[key] for key in sorted(content) if key != "digest"}
    text = json.dumps(rest, ensure_ascii=True, sort_keys=True, indent=None, separators=(",", ":"))
    return {**rest, "digest": hashlib.sha256(text.encode("ascii")).hexdigest()}


def write_manifest(path: Path, manifest: Manifest) -> Manifest:
    """Record every file of the directory as it is now and write manifest.json; the manifest written."""
    files = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != "manifest.json":
            content = file.read_bytes()
            pieces = [content[begin : begin + (32 << 20)] for begin in range(0, len(content), 32 << 20)]
            record = FileRecord(
                num_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                piece_sha256=tuple(hashlib.sha256(piece).hexdigest() for piece in pieces * (len(content) > 64 << 20)),
            )
            files[str(file.relative_to(path))] = record
    complete = replace(manifest, files=files)
    (path / "manifest.json").write_text(complete.to_json(), encoding="utf-8")
    return complete


def build(path: Path, **changes: Any) -> Manifest:
    """A whole runstream at `path`, which may hold files already (a tokenizer); fields of the manifest may be given."""
    manifest = make_manifest(**changes)
    (path / "lib").mkdir(parents=True, exist_ok=True)
    (path / "lib" / "libtvm_runtime.so").write_bytes(b"the VM")
    for lib in manifest.libraries:
        (path / lib.file).write_bytes(f"code for {lib.mcpu}".encode())
    for rank in range(manifest.tensor_parallel):
        write_rank(path, rank, manifest.tensor_parallel, manifest.checkpoint.digest, step=manifest.step_digest)
    return write_manifest(path, manifest)
