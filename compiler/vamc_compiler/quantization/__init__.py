"""Quantization schemes, by the name that `frontend.quantize.type` gives them.

To add one, write its object in a file beside this one and name it here. Nothing else names a scheme: the config's
rules, what can be built, the swap of layers, budgets and the manifest read the object. What it computes with is an op
(`vamc_compiler.ops`), a layer (source_code/quantizer_vacc.py) and, where no arithmetic fits, a kernel.
"""

from collections.abc import Mapping

from vamc_compiler.quantization.bounds import Bounds
from vamc_compiler.quantization.int8_per_channel import INT8_PER_CHANNEL
from vamc_compiler.quantization.scheme import Scheme
from vamc_compiler.quantization.sixteen_bits import BFLOAT16_BOUNDS, DTYPES, FLOAT16_BOUNDS
from vamc_compiler.quantization.w8a8_dynamic import W8A8_DYNAMIC
from vamc_compiler.quantization.w8a16_gptq import W8A16_GPTQ
from vamc_compiler.quantization.w16kv8 import W16KV8

SCHEMES: Mapping[str, Scheme] = {scheme.name: scheme for scheme in (INT8_PER_CHANNEL, W8A8_DYNAMIC, W8A16_GPTQ, W16KV8)}
"""In the order in which they are proposed."""

__all__ = ["BFLOAT16_BOUNDS", "DTYPES", "FLOAT16_BOUNDS", "SCHEMES", "Bounds", "Scheme"]
