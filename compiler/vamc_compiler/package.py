"""What a runstream holds besides code and weights: tokenizer files, graphs for verification, the manifest."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from vamc_compiler.graph import RankGraph
from vamc_compiler.intermediates import FOLDER as INTERMEDIATES
from vamc_compiler.onnx_stage.external_weights import WEIGHTS_FILE, inputs_to_external_data
from vamc_compiler.tokenizer.export import TokenizerFiles
from vamc_compiler.weights.writer import RankFile, plan_rank_file
from vamc_runtime.certificate import FILE_NAME as CERTIFICATE
from vamc_runtime.certificate import Certificate
from vamc_runtime.file_content import record_file
from vamc_runtime.manifest import FILE_NAME, FileRecord, Manifest

TOKENIZER_FOLDER = "tokenizer"
TOOLCHAIN = (
    "vamc",
    "apache-tvm",
    "apache-tvm-ffi",
    "torch",
    "onnx",
    "onnxscript",
    "onnxsim",
    "onnxruntime",
    "transformers",
    "numpy",
)


def write_tokenizer(tokenizer: TokenizerFiles, runstream: Path) -> None:
    """Write tokenizer and generation settings."""
    folder = runstream / TOKENIZER_FOLDER
    folder.mkdir()
    tokenizer.write(folder)


def onnx_folder(runstream: Path, rank: int) -> Path:
    """Where a rank's graph lies."""
    return runstream / "onnx" / f"rank_{rank}"


def plan_onnx_weights(graph: RankGraph, runstream: Path) -> RankFile:
    """Layout of the plain safetensors file that the rank's graph points into."""
    path = onnx_folder(runstream, graph.rank) / WEIGHTS_FILE
    return plan_rank_file(path, graph.parameters, {}, {"format": "pt"})


def write_onnx(graph: RankGraph, runstream: Path) -> None:
    """Write a rank's simplified graph; its weights are external data in a file that need not exist yet."""
    folder = onnx_folder(runstream, graph.rank)
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_onnx_weights(graph, runstream).plan
    model = inputs_to_external_data(graph.model(), graph.parameters, plan)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def toolchain_versions() -> dict[str, str]:
    """Versions of everything that shaped the runstream."""
    versions = {"python": platform.python_version()}
    for name in TOOLCHAIN:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def record_files(runstream: Path, on_progress: Callable[[int, int], None]) -> dict[str, FileRecord]:
    """Size and sha256 of every file, except intermediates and weights written for verification."""
    files = _listed_files(runstream)
    records: dict[str, FileRecord] = {}
    for path in files:
        records[path.relative_to(runstream).as_posix()] = record_file(path)
        on_progress(len(records), len(files))
    return records


def write_manifest(manifest: Manifest, runstream: Path) -> None:
    """Write manifest.json."""
    (runstream / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")


def add_certificate(certificate: Certificate, runstream: Path, manifest: Manifest) -> Manifest:
    """Write numerics.json, and the manifest that lists it; returns that manifest."""
    path = runstream / CERTIFICATE
    path.write_text(certificate.to_json(), encoding="utf-8")
    complete = dataclasses.replace(
        manifest, files=dict(sorted({**manifest.files, CERTIFICATE: record_file(path)}.items()))
    )
    write_manifest(complete, runstream)
    return complete


def _listed_files(runstream: Path) -> Sequence[Path]:
    return sorted(
        path
        for path in runstream.rglob("*")
        if path.is_file()
        and path.relative_to(runstream).parts[0] != INTERMEDIATES
        and not (path.name == WEIGHTS_FILE and path.relative_to(runstream).parts[0] == "onnx")
    )
