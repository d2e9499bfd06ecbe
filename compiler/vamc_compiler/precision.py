"""How the weights of a build are stored, and which layers are quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vamc_compiler.config import BuildConfig
from vamc_compiler.quantization import SCHEMES, Scheme

WeightType = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True, kw_only=True)
class ModelPrecision:
    """What the tracer needs to know of `backend.dtype` and `frontend.quantize`."""

    unquantized: WeightType = "float16"
    """Type of the weights that are not quantized; float32 only to compare with the original."""
    quantization: str | None = None
    """The name of the scheme, if any."""
    lm_head: bool = False
    """Whether it takes in the head."""

    @staticmethod
    def of(config: BuildConfig) -> ModelPrecision:
        """The precision of a buildable config (see `check_buildable`)."""
        unquantized: WeightType = "bfloat16" if config.backend.dtype == "bf16" else "float16"
        quantize = config.frontend.quantize
        if quantize is None:
            return ModelPrecision(unquantized=unquantized)
        assert SCHEMES[quantize.type].is_built, f"check_buildable lets {quantize.type} through"
        return ModelPrecision(unquantized=unquantized, quantization=quantize.type, lm_head=quantize.lm_head)

    @property
    def scheme(self) -> Scheme | None:
        """How weights are quantized, if they are."""
        return None if self.quantization is None else SCHEMES[self.quantization]


def multiplies_in_bfloat16(config: BuildConfig) -> bool:
    """Whether linear layers of many tokens round to bfloat16: `prefill_precision: bf16`, where weights are float16.

    It has no effect on others (`config.effects` says so), nor may it have: not on the float16 head of an int8 build.
    """
    is_float16 = ModelPrecision.of(config) == ModelPrecision()
    return is_float16 and config.backend.compile.prefill_precision == "bf16"


FLOAT32 = ModelPrecision(unquantized="float32")
"""The checkpoint's weights as they are: what a modeling file computes before anything is rounded."""
