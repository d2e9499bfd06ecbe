"""`vamc inspect`: what a runstream holds, readable at a glance."""

from __future__ import annotations

import argparse

from vamc_runtime.errors import UserError
from vamc_runtime.machine import cpu_model
from vamc_runtime.manifest import FileRecord, Manifest
from vamc_runtime.runstream import Runstream, check_hashes, choose_library, open_runstream


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


def describe(runstream: Runstream) -> list[tuple[str, str]]:
    """Label and value of every line of the summary."""
    manifest: Manifest = runstream.manifest
    model, kv, limits = manifest.model, manifest.kv_cache, manifest.limits
    heads = f"{model.num_heads} heads"
    heads += f", {model.num_kv_heads} for keys and values" if model.num_kv_heads != model.num_heads else ""
    token_bytes = kv.page_bytes / kv.page_tokens
    precision = manifest.precision
    return [
        ("name", manifest.name),
        ("model", f"{model.label}, {model.num_parameters / 1e6:,.1f} M parameters"),
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
        ("checkpoint", f"{manifest.checkpoint.path}"),
        ("", f"digest {manifest.checkpoint.digest[:16]}"),
        ("built with", ", ".join(f"{k} {v}" for k, v in manifest.toolchain.items() if k in _SHOWN)),
        ("files", f"{len(manifest.files)}, {_size(_sum(manifest.files, ''))}"),
    ]


_SHOWN = ("vamc", "apache-tvm", "apache-tvm-ffi", "torch", "onnx")


def inspect_command(options: argparse.Namespace) -> int:
    """Print the summary; returns the exit status.

    Raises:
        UserError: not a runstream, or a damaged one.
    """
    runstream = open_runstream(options.runstream)
    check_hashes(runstream, everything=options.verify_hash)
    if options.json:
        print(runstream.manifest.to_json(), end="")
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in describe(runstream):
        table.add_row(Text(label), Text(value))
    Console().print(table)
    return 0
