"""Linear layers over panel-packed weights: float16, and int8 with one scale per output channel.

Weight [k, i, 16] (see `vamc_compiler.packing.PanelPacking`), activations and accumulation float32. Panels are spread
over threads. Within a panel, `ROW_TILE` tokens at a time share every weight vector: loaded and converted once, then
one multiply-add per token, the sums staying in registers; tokens left over go one by one. Sums are taken in blocks of
`BLOCK_INPUTS`, which keeps the rounding error near that of the last addition: tensor-parallel degrees, which add in
another order, then agree more closely. A plain kernel: it reads each weight once per `ROW_TILE` tokens and converts it
each time.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from tvm import relax
from tvm.script import tirx as T

from vamc_compiler.kernels.work import SERIAL_WORK
from vamc_compiler.packing import PanelPacking

LANES = 16
ROW_TILE = 8
BLOCK_INPUTS = 64
PACKING = PanelPacking(LANES)


@functools.cache  # parsing TVMScript takes 0.1 s, and every layer asks for the same function
def _linear(inputs: int, outputs: int, weight_dtype: str, scaled: bool) -> Any:
    """y[n, outputs] = x[n, inputs] @ weight^T, times scale[outputs] when `scaled`."""
    panels = -(-outputs // LANES)
    whole_panels = outputs // LANES
    blocks = -(-inputs // BLOCK_INPUTS)
    float_lanes = f"float32x{LANES}"

    @T.macro
    def rows(x, weight, scale, y, panel, first_row, num_rows):
        sums = T.sblock_alloc_buffer((ROW_TILE * LANES,), "float32", scope="local")
        block = T.sblock_alloc_buffer((ROW_TILE * LANES,), "float32", scope="local")
        for row in T.unroll(num_rows):
            sums[T.ramp(row * LANES, 1, LANES)] = T.broadcast(T.float32(0), LANES)
        for start in T.serial(blocks):
            for row in T.unroll(num_rows):
                block[T.ramp(row * LANES, 1, LANES)] = T.broadcast(T.float32(0), LANES)
            for i in T.serial(T.min(BLOCK_INPUTS, inputs - start * BLOCK_INPUTS)):
                for row in T.unroll(num_rows):
                    block[T.ramp(row * LANES, 1, LANES)] = block[T.ramp(row * LANES, 1, LANES)] + T.broadcast(
                        x[first_row + row, start * BLOCK_INPUTS + i], LANES
                    ) * T.cast(weight[panel, start * BLOCK_INPUTS + i, T.ramp(0, 1, LANES)], float_lanes)
            for row in T.unroll(num_rows):
                sums[T.ramp(row * LANES, 1, LANES)] = (
                    sums[T.ramp(row * LANES, 1, LANES)] + block[T.ramp(row * LANES, 1, LANES)]
                )
        for row in T.unroll(num_rows):
            if panel < whole_panels:
                if scaled:
                    y[first_row + row, T.ramp(panel * LANES, 1, LANES)] = (
                        sums[T.ramp(row * LANES, 1, LANES)] * scale[T.ramp(panel * LANES, 1, LANES)]
                    )
                else:
                    y[first_row + row, T.ramp(panel * LANES, 1, LANES)] = sums[T.ramp(row * LANES, 1, LANES)]
            else:
                for lane in T.serial(outputs - whole_panels * LANES):
                    if scaled:
                        y[first_row + row, panel * LANES + lane] = (
                            sums[row * LANES + lane] * scale[panel * LANES + lane]
                        )
                    else:
                        y[first_row + row, panel * LANES + lane] = sums[row * LANES + lane]

    @T.macro
    def one_panel(n, x, weight, scale, y, panel):
        for tile in T.serial(n // ROW_TILE):
            rows(x, weight, scale, y, panel, tile * ROW_TILE, ROW_TILE)
        for row in T.serial(n % ROW_TILE):
            rows(x, weight, scale, y, panel, n // ROW_TILE * ROW_TILE + row, 1)

    @T.macro
    def all_rows(n, x, weight, scale, y):
        if n * (inputs * outputs) <= SERIAL_WORK:
            for panel in T.serial(panels):
                one_panel(n, x, weight, scale, y, panel)
        else:
            for panel in T.parallel(panels):
                one_panel(n, x, weight, scale, y, panel)

    if scaled:

        @T.prim_func(private=True, s_tir=True)
        def quantized(x_handle: T.handle, weight_handle: T.handle, scale_handle: T.handle, y_handle: T.handle):
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            n = T.int64()
            x = T.match_buffer(x_handle, (n, inputs), "float32")
            weight = T.match_buffer(weight_handle, (panels, inputs, LANES), weight_dtype)
            scale = T.match_buffer(scale_handle, (outputs,), "float32")
            y = T.match_buffer(y_handle, (n, outputs), "float32")
            all_rows(n, x, weight, scale, y)

        return quantized

    @T.prim_func(private=True, s_tir=True)
    def plain(x_handle: T.handle, weight_handle: T.handle, y_handle: T.handle):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        x = T.match_buffer(x_handle, (n, inputs), "float32")
        weight = T.match_buffer(weight_handle, (panels, inputs, LANES), weight_dtype)
        y = T.match_buffer(y_handle, (n, outputs), "float32")
        all_rows(n, x, weight, x, y)

    return plain


@dataclass(frozen=True)
class PanelLinear:
    """A linear layer whose weight is read panel by panel."""

    name: str
    weight_dtype: str
    scaled: bool
    packing: PanelPacking = PACKING

    def emit(self, builder: Any, *inputs: Any, **attributes: Any) -> Any:
        """Call the kernel on (x, packed weight[, scale]) with the attribute `out_features`."""
        x = builder.normalize(inputs[0])
        tokens, in_features = x.ty.shape
        out_features = attributes["out_features"]
        function = _linear(int(in_features), out_features, self.weight_dtype, self.scaled)
        variable = builder.add_func(function, f"{self.name}_{out_features}x{int(in_features)}")
        out_type = relax.TensorType([tokens, out_features], "float32")
        return builder.emit(relax.op.call_tir(variable, [x, *inputs[1:]], out_ty=out_type))


LINEAR_FLOAT16 = PanelLinear("linear_float16", "float16", scaled=False)
LINEAR_INT8_PER_CHANNEL = PanelLinear("linear_int8_per_channel", "int8", scaled=True)
