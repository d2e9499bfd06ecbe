"""Which of the configs that load this version can build."""

from __future__ import annotations

from vamc_runtime.errors import UserError

from .schema import BuildConfig

BUILDABLE_QUANTIZATIONS = ("int8_per_channel", "w8a8_dynamic")
BUILDABLE = (
    f"frontend.quantize absent (fp16, bf16) or of type {' or '.join(BUILDABLE_QUANTIZATIONS)}, "
    "backend.target.kind llvm, frontend.shape.input_ids with both lengths"
)


def check_buildable(config: BuildConfig) -> None:
    """Refuse what the schema allows and the compiler does not implement.

    Raises:
        UserError: names every setting in the way and lists what can be built.
    """
    obstacles: dict[str, str] = {}
    quantize = config.frontend.quantize
    if quantize is not None and quantize.type not in BUILDABLE_QUANTIZATIONS:
        obstacles["frontend.quantize.type"] = quantize.type
    if config.backend.target.kind != "llvm":
        obstacles["backend.target.kind"] = config.backend.target.kind
    if config.frontend.shape.max_context_tokens is None:
        obstacles["frontend.shape.input_ids"] = f"{config.frontend.shape.input_ids}, without a longest context"
    if not obstacles:
        return
    lines = [f"{config.source_path}: this version cannot build"]
    for key, value in obstacles.items():
        lines.append(f"  {config.setting_sources.get(key, 'default')}: {key}: {value}")
    raise UserError("\n".join(lines), expected=BUILDABLE, fix=f"change {' and '.join(obstacles)}")
