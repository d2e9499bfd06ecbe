"""How fast vamc has to be beside its peers, and the ratios that say whether it is.

A ratio is formed within each round, from two measurements seconds apart; the median over rounds counts. Speeds of
different rounds are never divided: the machine is not the same from minute to minute.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from measurement import Sample

INT8_PEERS = ("ctranslate2-int8", "openvino-int8", "openvino-int8-exact", "llama.cpp-q8_0", "ort-genai-int8")
WIDE_PEERS = ("openvino-bf16", "llama.cpp-f16")


@dataclass(frozen=True)
class Target:
    """vamc must reach `factor` times the fastest of `peers` in `phase`."""

    phase: str
    contestant: str
    peers: tuple[str, ...]
    factor: float


TARGETS = (
    Target("decode", "vamc-int8", INT8_PEERS, 1.08),
    Target("decode", "vamc-fp16", WIDE_PEERS, 1.0),
    Target("prefill", "vamc-w8a8", INT8_PEERS, 1.3),
    Target("prefill", "vamc-int8", ("openvino-int8-exact",), 1.2),
    Target("prefill", "vamc-int8", ("llama.cpp-q8_0",), 1.7),
    Target("prefill", "vamc-bf16", ("openvino-bf16",), 1.2),
    Target("prefill", "vamc-fp16", ("llama.cpp-f16",), 1.05),
)


def speeds(samples: Sequence[Sample], contestant: str, phase: str) -> dict[int, float]:
    """Tokens per second by round."""
    return {item.round: item.tokens_per_s for item in samples if (item.contestant, item.phase) == (contestant, phase)}


def ratios(samples: Sequence[Sample], contestant: str, peer: str, phase: str) -> list[float]:
    """contestant / peer of every round in which both were measured."""
    ours, theirs = speeds(samples, contestant, phase), speeds(samples, peer, phase)
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())]


def fastest(samples: Sequence[Sample], peers: Sequence[str], phase: str) -> str | None:
    """The peer with the highest median; None when none was measured."""
    medians = {peer: statistics.median(found.values()) for peer in peers if (found := speeds(samples, peer, phase))}
    return max(medians, key=medians.__getitem__, default=None)
