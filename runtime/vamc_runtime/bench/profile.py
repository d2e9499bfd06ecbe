"""Time and bytes of every operation of a step, from the VM's instrument."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from vamc_runtime.executor import RankExecutor, StepArguments
from vamc_runtime.ffi import tvm_ffi


@dataclass(frozen=True, kw_only=True)
class OpTime:
    """One operation, over all its calls in the steps that were watched."""

    name: str
    """Function of the library, or builtin of the VM."""
    calls: int
    """Calls in a step."""
    seconds: float
    """Seconds in a step."""
    weight_bytes: int
    """Bytes of the weights it was given, in a step."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A step by its operations, means over the steps that were watched."""

    ops: tuple[OpTime, ...]
    """Longest first."""
    step_seconds: float
    """The whole step, with the watching (about 2 µs for each call)."""


@dataclass(frozen=True)
class ProfileSteps:
    """A task for every rank: run the steps of a case with the instrument on."""

    steps: tuple[StepArguments, ...]
    repeat: int

    def __call__(self, executor: RankExecutor) -> Profile:
        """See the class."""
        watch = _Watch(executor)
        seconds = 0.0
        executor.machine["set_instrument"](tvm_ffi().convert(watch.on_call))
        try:
            for _ in range(self.repeat):
                begun = time.perf_counter()
                for step in self.steps:
                    executor.step(step)
                seconds += time.perf_counter() - begun
        finally:
            executor.machine["set_instrument"](None)
        if watch.error is not None:
            raise watch.error
        return Profile(ops=watch.ops(self.repeat), step_seconds=seconds / self.repeat)


class _Watch:
    """Collects what the VM reports before and after every call."""

    def __init__(self, executor: RankExecutor) -> None:
        self._sizes = {array.ctypes.data: array.nbytes for array in executor.weights.values()}
        self._calls: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)
        self._bytes: dict[str, int] = defaultdict(int)
        self._begun = 0.0
        self.error: Exception | None = None

    def on_call(self, function: Any, name: str, before: bool, result: Any, *arguments: Any) -> int:
        """The VM's instrument; an exception in it would be lost."""
        if before:
            self._begun = time.perf_counter()
            return 0
        self._seconds[name] += time.perf_counter() - self._begun
        self._calls[name] += 1
        try:
            if not name.startswith("vm."):
                self._bytes[name] += sum(self._weight_bytes(argument) for argument in arguments)
        except Exception as error:
            self.error = error
        return 0

    def _weight_bytes(self, argument: Any) -> int:
        return self._sizes.get(argument.data_ptr(), 0) if hasattr(argument, "data_ptr") else 0

    def ops(self, repeat: int) -> tuple[OpTime, ...]:
        """Means over the repetitions."""
        found = [
            OpTime(
                name=name,
                calls=self._calls[name] // repeat,
                seconds=seconds / repeat,
                weight_bytes=self._bytes[name] // repeat,
            )
            for name, seconds in self._seconds.items()
        ]
        return tuple(sorted(found, key=lambda op: -op.seconds))
