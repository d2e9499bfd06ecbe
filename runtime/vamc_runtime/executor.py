"""One rank: its library, its weights, its cache pages, and the step. Decides nothing."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from vamc_runtime.arrays import Staging, as_tensor, huge_pages, zero_pages
from vamc_runtime.compiled_code import load_library, load_vm
from vamc_runtime.errors import UserError
from vamc_runtime.ffi import tvm_ffi
from vamc_runtime.machine import available_memory_bytes, transparent_huge_pages
from vamc_runtime.manifest import KVCacheLayout
from vamc_runtime.manifest_checks import weights_name
from vamc_runtime.runstream import Runstream, check_rank_weights, choose_library
from vamc_runtime.safetensors_file import SafetensorsHeader, tensor_views
from vamc_runtime.weights_memory import HugePages, OnLoad, Placement, choose_placement, load_file

_CPU_DEVICE, _POOLED_ALLOCATOR = 1, 2
_ONE_THREAD_PER_CORE = -2

T = TypeVar("T")


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


class Ranks(Executor, Protocol):
    """All ranks of a runstream, opened."""

    def on_every_rank(self, task: Callable[[RankExecutor], T]) -> list[T]:
        """Call a function on every rank at the same time; the results in the order of ranks.

        Args:
            task: picklable, as its result is: it may be sent to other processes.
        """


class Collectives(Protocol):
    """What the compiled step calls to exchange tensors between ranks."""

    def all_reduce(self, x: Any, out: Any) -> None:
        """Write the sum of x over the ranks to out."""

    def all_reduce_max(self, x: Any, out: Any) -> None:
        """Write the largest of every element of x over the ranks to out."""

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
    huge_pages: HugePages = "auto"
    """Where the weights lie."""


class RankExecutor:
    """Runs one rank's compiled step. Use as a context manager, from one thread.

    Args:
        runstream: checked by the caller (`open_runstream`, `check_hashes`, `check_toolchain`).
        place: rank, cores, pages.
        collectives: how ranks exchange tensors; None when there is one rank.
        on_load: told how much of the weights is in memory.
    """

    def __init__(
        self,
        runstream: Runstream,
        place: RankPlace,
        collectives: Collectives | None,
        on_load: OnLoad | None = None,
    ) -> None:
        self.runstream = runstream
        self.place = place
        self.library: Any = None
        """The compiled library, a tvm_ffi module."""
        self.machine: Any = None
        """The VM that runs its step, a tvm_ffi module."""
        self.weights: dict[str, npt.NDArray[Any]] = {}
        """By name, views of memory that stays where it is while the executor is open."""
        self.placement: Placement
        """Where the weights lie."""
        self.kv_cache: list[npt.NDArray[np.float16]] = []
        """Pages of each layer; see `manifest.KVCacheLayout`."""
        self._collectives = collectives
        self._on_load = on_load
        self._step: Any = None
        self._fixed_arguments: list[Any] = []
        self._staging = Staging()
        self._affinity: set[int] = set()
        self._own_core = {place.cores[0]}

    def __enter__(self) -> RankExecutor:
        self._affinity = os.sched_getaffinity(0)
        try:
            # What is read now is used by these cores: on a machine of several sockets it lies near them.
            os.sched_setaffinity(0, self.place.cores)
            self._open()
        finally:
            os.sched_setaffinity(0, self._affinity)
        return self

    def _open(self) -> None:
        library = choose_library(self.runstream)
        header = check_rank_weights(self.runstream, self.place.rank)
        ffi = load_vm(self.runstream)
        if self._collectives is not None:
            ffi.register_global_func("vamc.all_reduce", self._collectives.all_reduce, override=True)
            ffi.register_global_func("vamc.all_reduce_max", self._collectives.all_reduce_max, override=True)
            ffi.register_global_func("vamc.all_gather", self._collectives.all_gather, override=True)
        self.library = load_library(self.runstream, library.file)
        self.machine = self.library["vm_load_executable"]()
        self.machine["vm_initialization"](_CPU_DEVICE, 0, _POOLED_ALLOCATOR)
        self.weights = self._load_weights(header)
        self.kv_cache = self._allocate_pages()
        parameters = [as_tensor(self.weights[name]) for name in self.runstream.manifest.parameters]
        self._fixed_arguments = [*map(as_tensor, self.kv_cache), ffi.convert(parameters)]
        self._step = self.machine["step"]
        configure_threads(self.place.cores)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._step = self.machine = self.library = None
        self._fixed_arguments, self.kv_cache, self.weights = [], [], {}

    def _load_weights(self, header: SafetensorsHeader) -> dict[str, npt.NDArray[Any]]:
        self.placement = choose_placement(
            self.place.huge_pages,
            header.path.stat().st_size,
            transparent_huge_pages=transparent_huge_pages(),
            available_bytes=available_memory_bytes(),
        )
        if self.placement.problem:
            warnings.warn(f"no huge pages for the weights: {self.placement.problem}", stacklevel=2)
        file = load_file(
            header.path,
            self.placement,
            num_threads=len(self.place.cores),
            on_load=self._on_load,
            record=self.runstream.manifest.files[weights_name(self.place.rank)],
        )
        return dict(tensor_views(header, file))

    def _allocate_pages(self) -> list[npt.NDArray[np.float16]]:
        layout, num_pages = self.runstream.manifest.kv_cache, self.place.num_pages
        shape = (num_pages, 2, layout.num_heads, layout.page_tokens, layout.head_dim)
        num_bytes = math.prod(shape) * np.dtype(np.float16).itemsize
        allocate = huge_pages if self.placement.copied else zero_pages
        try:
            return [allocate(num_bytes).view(np.float16).reshape(shape) for _ in range(layout.num_layers)]
        except (OSError, OverflowError, MemoryError, ValueError) as error:  # what mmap raises for too much
            raise cache_too_large(num_pages, layout, available_memory_bytes()) from error

    def step(self, arguments: StepArguments) -> npt.NDArray[np.float32]:
        """Compute one step; see `Executor`. Token ids and pages are the caller's to check.

        The calling thread is one of those that compute, and stays on its core for the time of the step.
        """
        tensors = [self._staging.put(name, values) for name, values in zip(_NAMES, arguments, strict=True)]
        with self.on_own_core():
            result = self._step(*tensors, *self._fixed_arguments)
        return np.asarray(np.from_dlpack(result[0]), np.float32)

    @contextlib.contextmanager
    def on_own_core(self) -> Iterator[None]:
        """Keeps the calling thread on the first of the rank's cores, where no worker thread is."""
        affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._own_core)
        try:
            yield
        finally:
            os.sched_setaffinity(0, affinity)

    def on_every_rank(self, task: Callable[[RankExecutor], T]) -> list[T]:
        """See `Ranks`."""
        return [task(self)]


_NAMES = StepArguments._fields


def cache_too_large(num_pages: int, layout: KVCacheLayout, available_bytes: int, num_ranks: int = 1) -> UserError:
    """The error for a KV cache that does not fit into memory.

    Args:
        num_pages: pages that each rank should own.
        layout: of a page.
        available_bytes: memory there is.
        num_ranks: ranks that share that memory.
    """
    wanted_bytes = num_pages * layout.page_bytes * num_ranks
    fitting = available_bytes // (layout.page_bytes * num_ranks) * layout.page_tokens
    return UserError(
        f"a KV cache of {num_pages * layout.page_tokens:,} tokens takes {wanted_bytes >> 20:,} MiB of memory, and "
        f"{available_bytes >> 20:,} MiB are available",
        expected=f"at most {fitting:,} tokens, beside the weights",
        fix="ask for fewer tokens (--kv-cache-tokens, LLM(kv_cache_tokens=...))",
    )


def configure_threads(cores: Sequence[int]) -> None:
    """One worker thread on each core but the first, which is the calling thread's during a step."""
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
