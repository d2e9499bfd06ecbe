"""`vamc inspect`: what a runstream holds, readable at a glance."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from vamc_runtime.certificate import Certificate, Figure, read_certificate
from vamc_runtime.console import print_json
from vamc_runtime.errors import UserError
from vamc_runtime.machine import cpu_model
from vamc_runtime.manifest import FileRecord, Manifest
from vamc_runtime.printable import printable
from vamc_runtime.quantities import significant
from vamc_runtime.runstream import Runstream, check_hashes, choose_library, open_runstream
from vamc_runtime.self_test import find_state, this_host

_SHOWN = ("vamc", "apache-tvm", "apache-tvm-ffi", "torch", "onnx")
_SHOWN_FIGURES = 4


def _size(num_bytes: float) -> str:
    """Bytes in the unit that keeps the number short."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.2f} GiB"


def _sum(files: dict[str, FileRecord], prefix: str) -> int:
    return sum(record.num_bytes for name, record in files.items() if name.startswith(prefix))


def _here(runstream: Runstream) -> str:
    """Which library this machine would run."""
    try:
        return f"{choose_library(runstream).mcpu} on this machine ({cpu_model()})"
    except UserError as error:
        return f"none on this machine: {error.found}"


def _labelled(label: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """A line for each text, the first with the label."""
    return [("" if number else label, text) for number, text in enumerate(texts)]


def describe(runstream: Runstream) -> list[tuple[str, str]]:
    """Label and value of every line of the summary."""
    manifest: Manifest = runstream.manifest
    model, kv, limits = manifest.model, manifest.kv_cache, manifest.limits
    heads = f"{model.num_heads} heads"
    heads += f", {model.num_kv_heads} for keys and values" if model.num_kv_heads != model.num_heads else ""
    token_bytes = kv.page_bytes / kv.page_tokens
    precision = manifest.precision
    certificate = read_certificate(runstream)
    verified, *figures = describe_numerics(certificate)
    return [
        ("name", manifest.name),
        ("model", f"{model.label}, {significant(model.num_parameters / 1e6)} M parameters"),
        ("", f"{model.num_layers} layers, hidden {model.hidden_size}, {heads}, vocabulary {model.vocab_size:,}"),
        ("precision", f"weights {precision.quantization or precision.weights}, KV cache {precision.kv_cache}"),
        ("", f"activations {precision.activations}"),
        ("ranks", str(manifest.tensor_parallel)),
        ("limits", f"{limits.max_prefill_tokens:,} tokens per step, context {limits.max_context_tokens:,}"),
        ("KV cache", f"{_size(token_bytes)} per token and rank, pages of {kv.page_tokens} tokens"),
        *(
            (f"rank {rank}", f"weights {_size(_sum(manifest.files, f'rank_{rank}/'))}")
            for rank in range(manifest.tensor_parallel)
        ),
        *(("library", f"{lib.mcpu} ({lib.machine}), {lib.file}") for lib in manifest.libraries),
        ("runs", _here(runstream)),
        ("numerics", verified),
        *(("", line) for line in figures),
        *_labelled("excluded", () if certificate is None else certificate.excludes),
        *_labelled("left open", () if certificate is None else certificate.leaves_open),
        ("self-test", _self_test(runstream, certificate)),
        ("checkpoint", f"{manifest.checkpoint.path}"),
        ("", f"digest {manifest.checkpoint.digest[:16]}"),
        ("built with", ", ".join(f"{k} {v}" for k, v in manifest.toolchain.items() if k in _SHOWN)),
        ("files", f"{len(manifest.files)}, {_size(_sum(manifest.files, ''))}"),
    ]


def describe_numerics(certificate: Certificate | None) -> list[str]:
    """What a verification found, in a few lines: of each kind of figure the one nearest its limit."""
    if certificate is None:
        return ["no certificate (compiled by an older version)"]
    if certificate.status != "passed":
        return [f"not verified: {certificate.reason}"]
    library = f" (library {certificate.library})" if certificate.library else ""
    against = f", against {certificate.reference}" if certificate.reference else ""
    lines = [f"verified {certificate.date[:10]} on {certificate.cpu}{library}: passed{against}"]
    lines.append(f"{certificate.num_tokens:,} tokens, {certificate.tokens}")
    nearest: dict[str, Figure] = {}
    for figure in certificate.figures:
        nearest[figure.name] = max(nearest.get(figure.name, figure), figure, key=lambda each: each.used)
    if nearest:
        lines.append(", ".join(map(str, list(nearest.values())[:_SHOWN_FIGURES])))
        num_pairs = len({figure.pair for figure in certificate.figures})
        lines.append(f"each the nearest to its limit; {len(certificate.figures)} figures over {num_pairs} comparisons")
    return lines


def _self_test(runstream: Runstream, certificate: Certificate | None) -> str:
    """Whether opening it on this machine begins with a self-test; ranks elsewhere are not asked."""
    try:
        state = find_state(runstream, certificate, [this_host(runstream)])
    except UserError:
        return "none: the runstream does not run on this machine"
    return {
        "none": "none: there is nothing to compare with",
        "not needed": "not needed on this machine: it was verified on such a CPU, with this library",
        "passed before": "passed before on this machine",
        "due": "due on this machine, when it is opened: it was verified on another CPU, or with another library",
    }[state]


def as_data(runstream: Runstream) -> dict[str, Any]:
    """The manifest with the certificate, or None, under `numerics`."""
    certificate = read_certificate(runstream)
    numerics = None if certificate is None else dataclasses.asdict(certificate)
    return runstream.manifest.to_dict() | {"numerics": numerics}


def inspect_command(options: argparse.Namespace) -> int:
    """Print the summary; returns the exit status.

    Raises:
        UserError: not a runstream, or a damaged one.
    """
    runstream = open_runstream(options.runstream)
    check_hashes(runstream, everything=options.verify_hash)
    if options.json:
        print_json(as_data(runstream))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in describe(runstream):
        table.add_row(Text(label), Text(printable(value)))
    Console().print(table)
    return 0
