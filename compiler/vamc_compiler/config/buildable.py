"""Which of the configs that load this version can build, and what comes nearest to those that it cannot."""

from __future__ import annotations

from dataclasses import dataclass

from vamc_compiler.quantization import DTYPES, SCHEMES, Scheme
from vamc_runtime.errors import UserError

from .schema import BuildConfig

BUILDABLE = (
    f"frontend.quantize absent ({', '.join(DTYPES)}) or of type "
    f"{' or '.join(scheme.name for scheme in SCHEMES.values() if scheme.is_built)}, "
    "backend.target.kind llvm, frontend.shape.input_ids with both lengths"
)


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """A setting that is right and cannot be built yet."""

    key: str
    """Dotted key."""
    value: str
    """Its value, for people."""
    source: str
    """Where it was given."""
    nearest: str
    """The `--set` options that come nearest, and what they mean; empty where nothing does."""


def find_obstacles(config: BuildConfig) -> list[Obstacle]:
    """What the schema allows and the compiler does not implement, of what a config asks for."""
    found: dict[str, tuple[str, str]] = {}
    quantize = config.frontend.quantize
    if quantize is not None and not SCHEMES[quantize.type].is_built:
        found["frontend.quantize.type"] = (quantize.type, _nearest(SCHEMES[quantize.type], config.backend.dtype))
    if config.backend.target.kind != "llvm":
        found["backend.target.kind"] = (config.backend.target.kind, "--set backend.target.kind=llvm (for CPUs)")
    if config.frontend.shape.max_context_tokens is None:
        found["frontend.shape.input_ids"] = (f"{config.frontend.shape.input_ids}, without a longest context", "")
    return [
        Obstacle(key=key, value=value, source=config.setting_sources.get(key, "default"), nearest=nearest)
        for key, (value, nearest) in found.items()
    ]


def _nearest(scheme: Scheme, dtype: str) -> str:
    """The precision that is built and comes nearest to a scheme that is not."""
    if scheme.instead is not None:
        return f"--set frontend.quantize.type={scheme.instead} ({scheme.instead_means})"
    change = "" if dtype in DTYPES else f" --set backend.dtype={DTYPES[0]}"
    return f"--set frontend.quantize=null{change} ({scheme.instead_means})"


def describe_obstacles(obstacles: list[Obstacle]) -> str:
    """A line for each, as messages show them."""
    return "\n".join(f"  {obstacle.source}: {obstacle.key}: {obstacle.value}" for obstacle in obstacles)


def check_buildable(config: BuildConfig) -> None:
    """Refuse what the schema allows and the compiler does not implement.

    Raises:
        UserError: names every setting in the way, what comes nearest, and what can be built.
    """
    obstacles = find_obstacles(config)
    if not obstacles:
        return
    fixes = [obstacle.nearest or f"change {obstacle.key}" for obstacle in obstacles]
    raise UserError(
        f"{config.source_path}: this version cannot build\n{describe_obstacles(obstacles)}",
        expected=BUILDABLE,
        fix=" and ".join(fixes),
    )
