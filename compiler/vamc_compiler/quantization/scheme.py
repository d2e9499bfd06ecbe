"""What a quantization scheme is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vamc_compiler.quantization.bounds import Bounds


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One way to round what a model computes with; the same for every model and degree."""

    name: str
    """`frontend.quantize.type`."""
    dtypes: tuple[str, ...]
    """Values of `backend.dtype` that go with it, the one to propose first."""
    layer: str | None = None
    """The class in source_code/quantizer_vacc.py that takes a linear layer over; None where it cannot be built yet."""
    activations: Literal["float32", "int8"] = "float32"
    """What the inputs of quantized layers are rounded to."""
    bounds: Bounds | None = None
    """Of right builds; None where there are none yet."""
    rounds_weights: bool = True
    """Whether weights are fewer bits than in the checkpoint, so that `lm_head` has an effect."""
    reads_dataset: bool = False
    """Whether it calibrates with the text that `dataset` names."""
    reads_calib_args: bool = False
    """Whether `calib_args` steer that."""
    instead: str | None = None
    """The scheme that comes nearest where this cannot be built yet; None for weights in 16 bits."""
    instead_means: str = ""
    """What that one does, for people."""

    @property
    def is_built(self) -> bool:
        """Whether this version can build it."""
        return self.layer is not None
