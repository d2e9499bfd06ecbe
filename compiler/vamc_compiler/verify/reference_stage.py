"""The original as a stage: one forward over the whole sequence, without a cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from vamc_compiler.verify.reference import Reference
from vamc_compiler.verify.run import Array, Run, TapValue
from vamc_runtime.executor import StepArguments


class ReferenceStage:
    """The original model in torch, in float32."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self.name = "original"

    def run(
        self, steps: Sequence[StepArguments], taps: Collection[str] = (), forced: Mapping[str, Array] | None = None
    ) -> Run:
        """See `Stage.run`; however it is cut, the sequence is computed as a whole."""
        assert not forced, "nothing is compared with an original that is fed something else"
        token_ids = [int(token) for step in steps for token in step.input_ids]
        result = self._reference.run(token_ids, taps)
        return Run(result.logits, {name: TapValue((value,)) for name, value in result.taps.items()})
