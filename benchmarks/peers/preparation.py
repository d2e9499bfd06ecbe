"""Checkpoint and converted models below one work directory, made once and kept."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from checkpoint import write_checkpoint
from entries import ENTRIES
from shapes import SHAPES
from workers import ContestantError, Worker, how_to_install

DONE = ".complete"


def checkpoint_folder(work: Path, shape: str) -> Path:
    """Where the checkpoint of a shape lies."""
    return work / shape / "checkpoint"


def model_folder(work: Path, shape: str, name: str) -> Path:
    """Where a contestant's converted model lies."""
    return work / shape / ENTRIES[name].model


def log_file(work: Path, shape: str, name: str) -> Path:
    """Where a contestant's worker writes what it prints."""
    return work / shape / "logs" / f"{name}.log"


def drop_from_page_cache(folder: Path) -> None:
    """Make the next reader of the files below a folder load them from disk, into other pages of memory.

    Programs that map their weights read them from the page cache, so that loading a model again would find it on the
    same physical pages, at the same read bandwidth. Files that a process has mapped stay where they are.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fdatasync(descriptor)  # pages that are not written yet cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def prepare_checkpoint(work: Path, shape: str) -> Path:
    """Write the checkpoint unless it is there."""
    folder = checkpoint_folder(work, shape)
    if not (folder / "config.json").is_file():
        print(f"{folder}: {SHAPES[shape].num_parameters / 1e9:.2f} billion random parameters", flush=True)
        write_checkpoint(folder, SHAPES[shape])
    return folder


def prepare_model(work: Path, shape: str, name: str, cores: list[int]) -> None:
    """Convert the checkpoint for one contestant unless that is done, at low priority.

    Raises:
        ContestantError: the conversion failed.
    """
    folder = model_folder(work, shape, name)
    if (folder / DONE).is_file():
        return
    checkpoint = prepare_checkpoint(work, shape)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"{name}: converting", flush=True)
    start = time.perf_counter()
    with Worker(name, ENTRIES[name], cores, log_file(work, shape, name), niceness=19) as worker:
        worker.ask("prepare", checkpoint=str(checkpoint), folder=str(folder))
    (folder / DONE).touch()
    print(f"{name}: converted in {time.perf_counter() - start:.0f} s", flush=True)


def prepare_all(
    work: Path, shape: str, names: list[str], cores: list[int], again: Collection[str]
) -> tuple[list[str], dict[str, str]]:
    """Convert for every contestant that is installed.

    Args:
        again: names to convert anew.

    Returns:
        The names that can be measured, and for the others the reason.
    """
    ready, skipped = [], {}
    for name in again:
        shutil.rmtree(model_folder(work, shape, name), ignore_errors=True)
    for name in names:
        if (missing := how_to_install(ENTRIES[name])) is not None:
            skipped[name] = f"not installed: {missing}"
        else:
            try:
                prepare_model(work, shape, name, cores)
                ready.append(name)
            except ContestantError as error:
                skipped[name] = str(error)
        if name in skipped:
            print(f"{name}: skipped, {skipped[name]}", flush=True)
    return ready, skipped
