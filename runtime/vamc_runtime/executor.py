"""One rank: its library, its weights, its cache pages, and the step. Decides nothing."""

from __future__ import annotations

import ctypes
import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from vamc_runtime.arrays import Staging, as_tensor, zero_pages
from vamc_runtime.ffi import tvm_ffi
from vamc_runtime.runstream import VM_LIBRARY, Runstream, check_rank_weights, choose_library
from vamc_runtime.safetensors_file import map_tensors

SPIN_COUNT = "1000"
"""How often an idle worker thread looks for work before it sleeps; TVM's own default burns 146 ms of CPU each time."""
_CPU_DEVICE, _POOLED_ALLOCATOR = 1, 2
_ONE_THREAD_PER_CORE = -2


class StepArguments(NamedTuple):
    """The arrays of one step, all int32; see `scheduler.StepPlan`."""

    input_ids: npt.NDArray[np.int32]
    position_ids: npt.NDArray[np.int32]
    seq_ids: npt.NDArray[np.int32]
    page_table: npt.NDArray[np.int32]
    logits_index: npt.NDArray[np.int32]


class Executor(Protocol):
    """Whatever can compute a step: this process, or ranks elsewhere."""

    def step(self, arguments: StepArguments) -> npt.NDArray[np.float32]:
        """Logits float32 [m, vocab]; the cache pages now hold the step's tokens."""


class Collectives(Protocol):
    """What the compiled step calls to exchange tensors between ranks."""

    def all_reduce(self, x: Any, out: Any) -> None:
        """Write the sum of x over the ranks to out."""

    def all_gather(self, x: Any, out: Any) -> None:
        """Write every rank's x [m, v], side by side, to out [m, ranks * v]."""


@dataclass(frozen=True, kw_only=True)
class RankPlace:
    """Which rank this is, and what it may use of the machine."""

    rank: int
    cores: tuple[int, ...]
    """Cores for the compiled code, one thread each."""
    num_pages: int
    """Cache pages to own."""


class RankExecutor:
    """Runs one rank's compiled step. Use as a context manager, from one thread.

    Args:
        runstream: checked by the caller (`open_runstream`, `check_hashes`, `check_toolchain`).
        place: rank, cores, pages.
        collectives: how ranks exchange tensors; None when there is one rank.
    """

    def __init__(self, runstream: Runstream, place: RankPlace, collectives: Collectives | None) -> None:
        self._runstream = runstream
        self._place = place
        self._collectives = collectives
        self._step: Any = None
        self._kv_cache: list[Any] = []
        self._parameters: Any = None
        self._staging = Staging()
        self._affinity: set[int] = set()

    def __enter__(self) -> RankExecutor:
        self._affinity = os.sched_getaffinity(0)
        try:
            self._open()
        except BaseException:
            os.sched_setaffinity(0, self._affinity)
            raise
        return self

    def _open(self) -> None:
        library = choose_library(self._runstream)
        header = check_rank_weights(self._runstream, self._place.rank)
        ffi = _load_vm(self._runstream)
        _configure_threads(self._place.cores)
        if self._collectives is not None:
            ffi.register_global_func("vamc.all_reduce", self._collectives.all_reduce, override=True)
            ffi.register_global_func("vamc.all_gather", self._collectives.all_gather, override=True)
        module = _load_library(self._runstream, library.file)
        machine = module["vm_load_executable"]()
        machine["vm_initialization"](_CPU_DEVICE, 0, _POOLED_ALLOCATOR)
        weights = dict(map_tensors(header))
        names = self._runstream.manifest.parameters
        self._parameters = ffi.convert([as_tensor(weights[name]) for name in names])
        self._kv_cache = [as_tensor(pages) for pages in self._allocate_pages()]
        self._step = machine["step"]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._step = self._parameters = None
        self._kv_cache = []
        os.sched_setaffinity(0, self._affinity)  # TVM pins the calling thread; the caller gets its cores back

    def _allocate_pages(self) -> Sequence[npt.NDArray[np.float16]]:
        layout = self._runstream.manifest.kv_cache
        shape = (self._place.num_pages, 2, layout.num_heads, layout.page_tokens, layout.head_dim)
        num_bytes = math.prod(shape) * np.dtype(np.float16).itemsize
        return [zero_pages(num_bytes).view(np.float16).reshape(shape) for _ in range(layout.num_layers)]

    def step(self, arguments: StepArguments) -> npt.NDArray[np.float32]:
        """Compute one step; see `Executor`. Token ids and pages are the caller's to check."""
        tensors = [self._staging.put(name, values) for name, values in arguments._asdict().items()]
        result = self._step(*tensors, *self._kv_cache, self._parameters)
        return np.asarray(np.from_dlpack(result[0]), np.float32)


def _load_vm(runstream: Runstream) -> Any:
    """Load the Relax VM that the runstream was built against, unless this process has one; returns tvm_ffi."""
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", SPIN_COUNT)
    ffi = tvm_ffi()
    if ffi.get_global_func("runtime.config_threadpool", allow_missing=True) is None:
        ctypes.CDLL(str(runstream.path / VM_LIBRARY), ctypes.RTLD_GLOBAL)  # libraries look for its symbols
    return ffi


def _load_library(runstream: Runstream, file: str) -> Any:
    """Load compiled code under a path of its own for each content.

    The dynamic loader takes a path that it has loaded before for the same library, even when the file was replaced
    since (a runstream compiled again under its name, opened again by the same process): the old code would run.
    """
    with tempfile.TemporaryDirectory(prefix="vamc-") as folder:
        link = Path(folder) / f"{runstream.manifest.files[file].sha256}.so"
        link.symlink_to((runstream.path / file).resolve())
        return tvm_ffi().load_module(str(link))


def _configure_threads(cores: Sequence[int]) -> None:
    configure = tvm_ffi().get_global_func("runtime.config_threadpool")
    configure(_ONE_THREAD_PER_CORE, len(cores), [str(core) for core in cores])
    num_threads = tvm_ffi().get_global_func("runtime.NumThreads")()
    if num_threads < len(cores):
        # The pool belongs to the calling thread and never grows (apache-tvm 0.27).
        warnings.warn(
            f"compiled code runs on {num_threads} of {len(cores)} cores: this thread ran some on fewer cores before; "
            "open the runstream in another thread or process to use all",
            stacklevel=2,
        )
