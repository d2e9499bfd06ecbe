"""A flipped bit in any file of a runstream is found before code is loaded or a weight is used."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from fuzz import made_up_runstream
from fuzz.target import Target
from vamc_runtime.manifest_checks import weights_name
from vamc_runtime.weights_memory import Placement, load_file

_LARGE_SHARE = 0.05
"""Of cases: each hashes 64 MiB."""


@dataclass(frozen=True)
class Context:
    """Two runstreams; large weights are compared while they are loaded."""

    small: Path
    large: Path


def prepare(folder: Path) -> Context:
    """Make them."""
    made_up_runstream.build(folder / "small")
    made_up_runstream.build(folder / "large", large=True)
    return Context(folder / "small", folder / "large")


def run(context: Context, rng: random.Random) -> None:
    """Flip a bit and open; the bit is flipped back."""
    path = context.large if rng.random() < _LARGE_SHARE else context.small
    flip_and_open(path, rng)


def flip_and_open(path: Path, rng: random.Random, file: Path | None = None) -> None:
    """Flip a bit of one file of a runstream, and open it as far as its code.

    Raises:
        UserError: always, when the product is right.
    """
    file = file or rng.choice(sorted(found for found in path.rglob("*") if found.is_file()))
    bit = rng.randrange(8 * file.stat().st_size)
    _flip(file, bit)
    try:
        llm = made_up_runstream.open_without_code(path)
        for rank in range(llm.manifest.tensor_parallel):
            name = weights_name(rank)
            load_file(
                path / name, Placement(copied=rng.random() < 0.5, read_ahead=True), record=llm.manifest.files[name]
            )
    finally:
        _flip(file, bit)
    raise AssertionError(f"bit {bit} of {file.relative_to(path)} is flipped, and nobody noticed")


def _flip(file: Path, bit: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(bit // 8)
        byte = stream.read(1)[0]
        stream.seek(bit // 8)
        stream.write(bytes([byte ^ 1 << bit % 8]))


TARGET = Target(name="runstream_bits", num_cases=2000, num_quick=60, prepare=prepare, run=run, outcomes="refused")
