"""What the size of a call costs: odd numbers of tokens, calls of a few tiles, other tiles, fewer bits."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from documented.arithmetics import BY_KEY
from documented.figures import Group, Samples, Settings, Unit
from documented.linear import (
    QUICK_SHAPES,
    QUICK_TOKENS,
    QUICK_WEIGHT_BYTES,
    SHAPES,
    TOKENS,
    WEIGHT_BYTES,
    Layer,
    kernel_of,
)
from documented.machine import Library, compile_library, in_turns, num_threads, target_of, timed
from vamc_compiler.kernels.dot_int8 import Vnni

FEW_TOKENS = 17
"""One more than a decode of 16 sequences: three tiles of `w8a8_dynamic`."""


@dataclass(frozen=True)
class _WithoutFetching(Vnni):
    """The same arithmetic, leaving it to the CPU to see the next group of panels coming."""

    @property
    def name(self) -> str:
        """See `Arithmetic.name`."""
        return f"{super().name}_unfetched"

    @property
    def fetch_panels(self) -> int:
        """See `Arithmetic.fetch_panels`."""
        return 0


@dataclass(frozen=True)
class _Wide(Vnni):
    """Tiles of another form, under a name of its own."""

    @property
    def name(self) -> str:
        """See `Arithmetic.name`."""
        return f"{super().name}_{self.rows}x{self.panels}"


def measure(settings: Settings) -> Samples:
    """All of it with the VNNI kernels; nothing on a CPU without."""
    wide, narrow, target = BY_KEY["vnni16"].arithmetic(), BY_KEY["vnni8"].arithmetic(), target_of("host")
    if not isinstance(wide, Vnni) or not isinstance(narrow, Vnni) or target is None:
        return {}
    shape = (QUICK_SHAPES if settings.quick else SHAPES)[0]
    arithmetics = {
        "wide": wide,
        "narrow": narrow,
        "unfetched": _WithoutFetching(narrow.form, rows=narrow.rows),
        "other": _Wide(wide.form, rows=2 * wide.rows, panels=wide.panels // 2),
    }
    library = compile_library([kernel_of(arithmetic, shape) for arithmetic in arithmetics.values()], target)
    weight_bytes = QUICK_WEIGHT_BYTES if settings.quick else WEIGHT_BYTES
    layers = {name: Layer(arithmetic, library, shape, weight_bytes) for name, arithmetic in arithmetics.items()}
    found: dict[str, list[float]] = {key: [] for key in UNITS}
    for _ in range(settings.rounds):
        for key, value in _round(settings, layers, library).items():
            found[key].append(value)
    return found


def _round(settings: Settings, layers: dict[str, Layer], library: Library) -> dict[str, float]:
    """One value of every figure."""
    tokens = QUICK_TOKENS if settings.quick else TOKENS
    values = {}
    for key, name in (("w8a8", "narrow"), ("int8", "wide")):
        even, odd = _times(settings, (layers[name], tokens), (layers[name], tokens + 1))
        values[f"calls.{key}.odd"] = odd / even
    wide, other = _times(settings, (layers["wide"], tokens), (layers["other"], tokens))
    values["calls.tiles"] = other / wide
    wide, narrow = _times(settings, (layers["wide"], tokens), (layers["narrow"], tokens))
    values["calls.bits"] = wide / narrow
    threads = num_threads()
    for name, key in (("narrow", "fetched"), ("unfetched", "unfetched")):
        layer = layers[name]
        peak, read, seconds = in_turns(
            settings.repeats,
            functools.partial(library.peak, "int8", threads),
            layer.read,
            functools.partial(timed, layer.all(FEW_TOKENS)),
        )
        arithmetic = len(layer.weights) * layer.multiply_adds(FEW_TOKENS) / peak
        values[f"calls.few.{key}"] = seconds / max(read, arithmetic)
    return values


def _times(settings: Settings, *calls: tuple[Layer, int]) -> list[float]:
    """Seconds of layers with so many tokens, in turns."""
    timers = [layer.one(tokens) for layer, tokens in calls]
    return in_turns(settings.repeats, *(functools.partial(timed, call) for call in timers))


UNITS: dict[str, Unit] = dict.fromkeys(
    (
        "calls.w8a8.odd",
        "calls.int8.odd",
        "calls.few.fetched",
        "calls.few.unfetched",
        "calls.tiles",
        "calls.bits",
    ),
    "ratio",
)
GROUP = Group(name="calls", units=UNITS, measure=measure)
