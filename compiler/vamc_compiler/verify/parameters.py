"""Parameters of a rank as modeling files and graphs take them, read from the checkpoint when they are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vamc_compiler.parameters import FromValue, ParameterSpec
from vamc_compiler.verify.run import Array
from vamc_compiler.weights.checkpoint import Checkpoint
from vamc_compiler.weights.shards import read_parameter


class RankParameters:
    """One rank's parameters by name: sliced, quantized, not packed.

    Every stage reads them in the same order, again and again: the first that fit into the cache are kept for good
    (dropping the least recently used one would drop each just before its next use).

    Args:
        checkpoint: where they come from.
        parameters: the rank's list.
        cache_bytes: how much stays in memory; a model below that is read once.
    """

    def __init__(self, checkpoint: Checkpoint, parameters: Sequence[ParameterSpec], cache_bytes: int) -> None:
        self.specs = {spec.name: spec for spec in parameters}
        self._checkpoint = checkpoint
        self._free_bytes = cache_bytes
        self._kept: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        """The parameter in its shape and type; bfloat16 as its bits, uint16."""
        if name in self._kept:
            return self._kept[name]
        spec = self.specs[name]
        if isinstance(spec.origin, FromValue):
            value = np.asarray(spec.origin.value, spec.dtype).reshape(spec.shape)
        else:
            value = read_parameter(spec, self._checkpoint.tensors)
        if value.nbytes <= self._free_bytes:
            self._free_bytes -= value.nbytes
            self._kept[name] = value
        return value

    def release(self) -> None:
        """Drop what is kept; a later use reads it again."""
        self._free_bytes += sum(value.nbytes for value in self._kept.values())
        self._kept.clear()
