"""int8 weights that GPTQ calibrates; configs that were written for VACC cards ask for it."""

from __future__ import annotations

from vamc_compiler.quantization.scheme import Scheme

W8A16_GPTQ = Scheme(
    name="w8a16_gptq",
    dtypes=("int8",),
    reads_dataset=True,
    reads_calib_args=True,
    instead="int8_per_channel",
    instead_means="int8 weights, rounded without calibration",
)
