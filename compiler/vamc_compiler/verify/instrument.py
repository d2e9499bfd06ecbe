"""Taps of compiled code: the library as it is shipped, watched through the VM's instrument.

The VM calls a function before and after every kernel. A kernel is recognised by the memory it is given: a weight tells
the layer, a layer's cache pages tell its attention. Nothing is compiled for the purpose, so nothing can hide a fault
that is there otherwise. To feed a block what another stage fed it, the stream is overwritten in place before its norm
reads it.

Sent to rank processes: no torch, no onnx here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vamc_runtime.executor import RankExecutor, StepArguments
from vamc_runtime.ffi import tvm_ffi

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class WeightReader:
    """The kernel that reads a weight."""

    kind: Literal["norm", "linear", "embedding"]
    path: str
    """Its module."""
    width: int
    """Columns of the rows that it takes; the rank's. Rows may be stored with more."""
    summed: bool = False
    """Whether its output is this rank's summand of the layer's."""


@dataclass(frozen=True, kw_only=True)
class TapSteps:
    """A task for every rank: run steps with the instrument on; gives logits [t, v] and taps [t, w] of the rank."""

    steps: Sequence[StepArguments]
    readers: Mapping[str, WeightReader]
    attention: Mapping[int, str]
    """Tap of each layer's attention."""
    wanted: frozenset[str]
    forced: Mapping[str, Array] = field(default_factory=dict)
    """Streams to overwrite, float32 [t, w]."""

    def __call__(self, executor: RankExecutor) -> tuple[Array, dict[str, Array]]:
        """See the class."""
        for pages in executor.kv_cache:
            pages[...] = 0  # what another sequence left there must not hide a page that is not written
        watch = _Watch(self, executor)
        logits = []
        if self.wanted or self.forced:
            executor.machine["set_instrument"](tvm_ffi().convert(watch.on_call))
        try:
            for step in self.steps:
                watch.begin(step)
                logits.append(executor.step(step))
        finally:
            executor.machine["set_instrument"](None)
        if watch.error is not None:
            raise watch.error
        return np.concatenate(logits), {name: np.concatenate(rows) for name, rows in watch.rows.items()}


def _view(tensor: Any) -> Array:
    """A float32 tensor of the VM as an array that can be written, [rows, everything else]."""
    shape = tuple(tensor.shape)
    size = int(np.prod(shape))
    memory = (ctypes.c_float * size).from_address(tensor.data_ptr())
    rows: Array = np.ctypeslib.as_array(memory).reshape(shape[0], -1)
    return rows


def _is_float(tensor: Any) -> bool:
    return str(tensor.dtype) == "float32"


class _Watch:
    """Follows the calls of one rank."""

    def __init__(self, task: TapSteps, executor: RankExecutor) -> None:
        self.rows: dict[str, list[Array]] = {}
        self.error: Exception | None = None
        self._task = task
        pointers = {array.ctypes.data: name for name, array in executor.weights.items()}
        self._readers = {address: task.readers[name] for address, name in pointers.items() if name in task.readers}
        self._layers = {pages.ctypes.data: layer for layer, pages in enumerate(executor.kv_cache)}
        self._summands: dict[int, str] = {}
        self._step = task.steps[0]

    def begin(self, step: StepArguments) -> None:
        """A step starts."""
        self._step = step
        self._summands.clear()

    def on_call(self, function: Any, name: str, before: bool, result: Any, *arguments: Any) -> int:
        """The VM's instrument; an exception in it would be lost."""
        if name.startswith("vm.") or self.error is not None:
            return 0
        try:
            tensors = [argument for argument in arguments if hasattr(argument, "data_ptr")]
            (self._before if before else self._after)(tensors)
        except Exception as error:
            self.error = error
        return 0

    def _reader(self, tensors: Sequence[Any]) -> tuple[int, WeightReader] | None:
        """The weight among a call's tensors, by position."""
        for position, tensor in enumerate(tensors):
            reader = self._readers.get(tensor.data_ptr())
            if reader is not None:
                return position, reader
        return None

    def _before(self, tensors: Sequence[Any]) -> None:
        found = self._reader(tensors)
        if found is None or found[1].kind != "norm":
            return
        position, tap = found[0], f"{found[1].path}.in"
        stream = _view(tensors[0])
        if tap in self._task.wanted:
            self._add(tap, stream if position == 1 else stream + _view(tensors[1]))
        if tap in self._task.forced:
            first = int(self._step.position_ids[0])
            stream[...] = self._task.forced[tap][first : first + len(stream)]
            for added in tensors[1:position]:
                _view(added)[...] = 0

    def _after(self, tensors: Sequence[Any]) -> None:
        found = self._reader(tensors)
        if found is not None:
            self._after_reader(tensors, *found)
            return
        layer = next((self._layers[t.data_ptr()] for t in tensors if t.data_ptr() in self._layers), None)
        if layer is not None:
            self._record(self._task.attention[layer], tensors[-1])
        elif tensors and tensors[0].data_ptr() in self._summands:
            tap = self._summands[tensors[0].data_ptr()]
            if len(tensors) == 2 and tuple(tensors[0].shape) == tuple(tensors[1].shape):
                del self._summands[tensors[0].data_ptr()]
                self._record(tap, tensors[1])

    def _after_reader(self, tensors: Sequence[Any], position: int, reader: WeightReader) -> None:
        output = tensors[-1]
        if reader.kind == "norm":
            rows = tensors[position + 1 + (position == 2) :]  # with a residual the stream is written first
            if len(rows) == 1:
                self._record(f"{reader.path}.out", rows[0], reader.width)
            return
        if reader.kind == "linear":
            x = tensors[0]
            if position == 1 and f"{reader.path}.in" not in self._task.attention.values():
                self._record(f"{reader.path}.in", x, reader.width)  # only where the kernel reads float32 rows
        if reader.summed:
            self._summands[output.data_ptr()] = f"{reader.path}.out"
        else:
            self._record(f"{reader.path}.out", output)

    def _record(self, tap: str, tensor: Any, width: int | None = None) -> None:
        if tap in self._task.wanted and _is_float(tensor):
            self._add(tap, _view(tensor)[:, :width])

    def _add(self, tap: str, rows: Array) -> None:
        self.rows.setdefault(tap, []).append(np.array(rows, np.float32))
