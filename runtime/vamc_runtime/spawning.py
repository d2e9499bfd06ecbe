"""multiprocessing whose processes import nothing from where the user stands; see `child_python`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from multiprocessing import context, process, resource_tracker, util
from typing import Any

from vamc_runtime.child_python import WITHOUT_CURRENT_DIRECTORY, python_environment


class _Process(context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:  # noqa: N802  # multiprocessing's name
        with _without_current_directory():
            return context.SpawnProcess._Popen(process_obj)


class _Context(context.SpawnContext):
    Process = _Process


def spawn_context() -> context.SpawnContext:
    """multiprocessing's context "spawn", for pools and processes."""
    with _without_current_directory():
        resource_tracker.ensure_running()  # a process too, which queues would start
    return _Context()


@contextlib.contextmanager
def _without_current_directory() -> Iterator[None]:
    """multiprocessing starts every process as `python -c CODE`, through one function."""
    start = util.spawnv_passfds
    given = os.environ.get("PYTHONPATH")

    def start_safely(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        code = args.index("-c") + 1
        return start(path, [*args[:code], WITHOUT_CURRENT_DIRECTORY + args[code], *args[code + 1 :]], passfds)

    util.spawnv_passfds = start_safely
    if given is not None:
        os.environ["PYTHONPATH"] = python_environment().get("PYTHONPATH", "")
    try:
        yield
    finally:
        util.spawnv_passfds = start
        if given is not None:
            os.environ["PYTHONPATH"] = given
