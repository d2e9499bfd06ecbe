"""Which kernel lowers which op on which CPU.

To add a kernel, write its arithmetic in a file beside this one and name it here. Every arithmetic that can lower an op
reads the same packed weight, so that one set of weights serves all libraries of a runstream.
"""

from __future__ import annotations

from vamc_compiler.kernels.activations import FLOAT32_AND_BFLOAT16, FLOAT32_ROWS, Format
from vamc_compiler.kernels.dot_amx import TILE_ROWS, AmxBFloat16, AmxHalfToBFloat16, AmxInt8
from vamc_compiler.kernels.dot_bf16 import BFloat16Dot, HalfToBFloat16Dot
from vamc_compiler.kernels.dot_float import HalfFma, PairFma, StagedHalfFma
from vamc_compiler.kernels.dot_int8 import DIGITS_8, DIGITS_16, WHOLE_8, WHOLE_16, Pairs, Vnni
from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.linear import Arithmetic
from vamc_compiler.kernels.paged_attention import TileShape
from vamc_compiler.ops import OPS
from vamc_compiler.packing import Packing

ANY_TOKENS = 1 << 62
SMALL_BATCH = 16
"""Up to this many tokens a call waits for memory, and neither tiles nor `prefill_precision: bf16` bring anything."""

Choices = tuple[tuple[int, Arithmetic], ...]
"""(most tokens, arithmetic), ascending."""


class KernelTable:
    """The kernels of one CPU.

    Args:
        instructions: what the CPU can do.
        bfloat16_prefill: multiply float16 weights in bfloat16 where a step has many tokens.
    """

    def __init__(self, instructions: InstructionSet, *, bfloat16_prefill: bool = False) -> None:
        self.instructions = instructions
        self._bfloat16_prefill = bfloat16_prefill and instructions.bf16

    def linear(self, op: str, weight_dtype: str) -> Choices:
        """The arithmetic of a linear op, by the number of tokens."""
        activation_bits = OPS[op].activation_bits
        if activation_bits is not None:
            return self._int8(activation_bits)
        if weight_dtype == "bfloat16":
            return self._bfloat16()
        wide = self.instructions.avx512
        form = FLOAT32_AND_BFLOAT16 if self._bfloat16_prefill else FLOAT32_ROWS
        exact = HalfFma(rows=6 if wide else 3, panels=4 if wide else 2, form=form)
        if not self._bfloat16_prefill:
            if wide:
                return ((ANY_TOKENS, exact),)
            return ((SMALL_BATCH, exact), (ANY_TOKENS, StagedHalfFma(rows=6, panels=1)))
        many = AmxHalfToBFloat16() if self.instructions.amx_bf16 else HalfToBFloat16Dot()
        return ((SMALL_BATCH, exact), (ANY_TOKENS, many))

    def _int8(self, activation_bits: int) -> Choices:
        wide = activation_bits == 16
        if self.instructions.vnni:
            vnni = Vnni(DIGITS_16, rows=3) if wide else Vnni(DIGITS_8, rows=6)
            if not self.instructions.amx:
                return ((ANY_TOKENS, vnni),)
            amx = AmxInt8(DIGITS_16, rows=TILE_ROWS) if wide else AmxInt8(DIGITS_8, rows=2 * TILE_ROWS)
            return ((SMALL_BATCH, vnni), (ANY_TOKENS, amx))
        form = WHOLE_16 if wide else WHOLE_8
        pairs = Pairs(form, width=32, rows=6) if self.instructions.avx512 else Pairs(form, width=16, rows=3)
        return ((ANY_TOKENS, pairs),)

    def _bfloat16(self) -> Choices:
        if self.instructions.amx_bf16:
            return ((SMALL_BATCH, BFloat16Dot()), (ANY_TOKENS, AmxBFloat16()))
        if self.instructions.bf16:
            return ((ANY_TOKENS, BFloat16Dot()),)
        fma = PairFma(rows=6, panels=4) if self.instructions.avx512 else PairFma(rows=3, panels=2)
        return ((ANY_TOKENS, fma),)

    def packing(self, op: str, weight_dtype: str) -> Packing:
        """Layout of the weight of a linear op."""
        return self.linear(op, weight_dtype)[0][1].packing

    def form(self, op: str, weight_dtype: str) -> Format:
        """How a linear op wants its input."""
        return self.linear(op, weight_dtype)[-1][1].form

    @property
    def attention(self) -> TileShape:
        """The tile of the attention kernel."""
        return TileShape(rows=6, vectors=4) if self.instructions.avx512 else TileShape(rows=3, vectors=2)
