"""A runstream that is right in every respect but its code, for targets that stop before code is loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from vamc_runtime import LLM
from vamc_runtime.certificate import parse_certificate
from vamc_runtime.manifest import Manifest
from vamc_runtime.runstream import check_hashes, check_rank_weights, check_toolchain, choose_library, open_runstream

_RUNTIME_TESTS = Path(__file__).parents[1] / "unit" / "runtime"
_TOKENIZER = Path(__file__).parents[2] / "build_in" / "checkpoints" / "llama-mini"


def build(path: Path, *, large: bool = False) -> Manifest:
    """Make one at `path`, of two ranks, or of one rank with weights above 64 MiB; caches lie beside it from now on."""
    os.environ["XDG_CACHE_HOME"] = str(path.parent / "cache")
    if str(_RUNTIME_TESTS) not in sys.path:
        sys.path.append(str(_RUNTIME_TESTS))
    import fake_certificate
    import fake_runstream

    (path / "tokenizer").mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (path / "tokenizer" / name).write_bytes((_TOKENIZER / name).read_bytes())
    (path / "onnx" / "rank_0").mkdir(parents=True)
    (path / "onnx" / "rank_0" / "model.onnx").write_bytes(b"a graph")
    (path / "numerics.json").write_text(fake_certificate.make_certificate().to_json(), encoding="utf-8")
    return fake_runstream.build_large(path) if large else fake_runstream.build(path, tensor_parallel=2)


def with_digest(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest's content with the digest that it should have."""
    import fake_runstream

    return fake_runstream.with_digest(content)


def open_without_code(path: Path) -> LLM:
    """Everything that the runtime does with a runstream before it loads code: checks of the manifest, of the tokenizer,
    of every rank, of hashes, of the certificate.

    Raises:
        UserError: something is wrong.
    """
    llm = LLM(path)
    runstream = open_runstream(path)
    check_toolchain(runstream)
    for rank in range(runstream.manifest.tensor_parallel):
        check_rank_weights(runstream, rank)
    check_hashes(runstream, everything=False)
    choose_library(runstream)
    if "numerics.json" in runstream.manifest.files:
        parse_certificate(runstream.read("numerics.json"), path / "numerics.json")
    assert llm.manifest == runstream.manifest
    return llm
