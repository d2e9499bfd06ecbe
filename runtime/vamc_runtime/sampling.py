"""From logits to the next token: penalties, temperature, top-k, top-p, draw.

The order is that of the paged runners in formats.md C. Where they differ from Hugging Face transformers, the
latter is followed, because that is what the author of a generation_config.json meant: top-p keeps the token
that crosses `top_p` (formats.md C drops it), and top-k keeps every token tied with the k-th.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vamc_runtime.errors import UserError

_HF_DEFAULT_TOP_K = 50  # what transformers samples with when a generation_config.json does not give top_k
_GENERATION_CONFIG_KEYS = (
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one request's tokens are chosen.

    Raises:
        UserError: a value of the wrong type or out of range.
    """

    max_new_tokens: int = 128
    """Most tokens to generate, at least 1; clipped to the room left in the context."""
    temperature: float = 0.0
    """Logits are divided by it; 0 is greedy: the most likely token, the lowest id on ties."""
    top_k: int = 0
    """Only the k most likely tokens can be drawn; 0 is off."""
    top_p: float = 1.0
    """Only the smallest set of most likely tokens with at least this probability can be drawn; 1 is off."""
    min_tokens_to_keep: int = 1
    """top_p leaves at least this many tokens of those that top_k left."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of prompt and output become less likely: logits / penalty, or * when negative."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of every token of the output, -2 to 2."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of every token of the output, times how often it occurs there, -2 to 2."""
    seed: int | None = None
    """Same seed, same text; None draws a fresh one."""
    stop: tuple[str, ...] = ()
    """Texts that end the output; they are not part of it."""
    ignore_eos: bool = False
    """Generate on after an end-of-sequence token."""

    def __post_init__(self) -> None:
        _check_int("max_new_tokens", self.max_new_tokens, 1)
        _check_number("temperature", self.temperature, 0.0, math.inf)
        _check_int("top_k", self.top_k, 0)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check_int("min_tokens_to_keep", self.min_tokens_to_keep, 1)
        _check_number("repetition_penalty", self.repetition_penalty, 0.0, math.inf)
        if self.repetition_penalty == 0:
            raise _bad("repetition_penalty", self.repetition_penalty, "a number above 0")
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None:
            _check_int("seed", self.seed, 0)
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) and text for text in self.stop):
            raise _bad("stop", self.stop, "a tuple of texts, none of them empty")
        if not isinstance(self.ignore_eos, bool):
            raise _bad("ignore_eos", self.ignore_eos, "True or False")

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any], **overrides: Any) -> SamplingParams:
        """The parameters a checkpoint's generation_config.json means, with the given fields replaced.

        As in transformers: greedy without `do_sample: true`; with it, an absent top_k means 50 and an absent
        temperature means 1. Beam search and the other penalties of transformers are not read.

        Args:
            config: the object in generation_config.json; null means absent.
            overrides: fields of this class; None means not overridden.
        """
        values = {key: config[key] for key in _GENERATION_CONFIG_KEYS if config.get(key) is not None}
        if config.get("do_sample"):
            values.setdefault("temperature", 1.0)
            values.setdefault("top_k", _HF_DEFAULT_TOP_K)
        else:
            values["temperature"] = 0.0
        values.update((key, value) for key, value in overrides.items() if value is not None)
        return cls(**values)


class Sampler:
    """Chooses one sequence's tokens; keeps the counts its penalties need and its own random generator.

    Nothing is shared between sequences, so the same seed gives the same tokens whatever else is in the batch.

    Args:
        params: how to choose.
        prompt_ids: the prompt, which counts for the repetition penalty.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int]) -> None:
        self._params = params
        self._rng = np.random.default_rng(params.seed)
        self._prompt_ids = frozenset(prompt_ids) if params.repetition_penalty != 1.0 else frozenset()
        self._output_counts: dict[int, int] = {}

    def sample(self, logits: NDArray[np.float32]) -> int:
        """The next token.

        Args:
            logits: float32 [vocab], left unchanged.

        Raises:
            RuntimeError: a logit is NaN or infinite, which only a fault in the model or its weights makes.
        """
        num_bad = logits.size - int(np.count_nonzero(np.isfinite(logits)))
        if num_bad:
            num_tokens = sum(self._output_counts.values())
            raise RuntimeError(
                f"{num_bad} of {logits.size} logits are NaN or infinite after {num_tokens} generated tokens: "
                "the compiled model or its weights are wrong"
            )
        params = self._params
        scores = self._penalised(logits)
        if params.temperature == 0:
            token = int(np.argmax(scores))
        else:
            ids, probabilities = distribution(scores, params)
            token = int(ids[_draw(probabilities, self._rng.random())])
        self._output_counts[token] = self._output_counts.get(token, 0) + 1
        return token

    def _penalised(self, logits: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """The logits after the penalties; the same array where none applies."""
        params = self._params
        if params.repetition_penalty == 1.0 and not params.presence_penalty and not params.frequency_penalty:
            return logits
        scores = logits.astype(np.float64)
        output = np.fromiter(self._output_counts, dtype=np.int64, count=len(self._output_counts))
        if params.repetition_penalty != 1.0:
            seen = np.fromiter(self._prompt_ids.union(self._output_counts), dtype=np.int64)
            old = scores[seen]
            scores[seen] = np.where(old < 0, old * params.repetition_penalty, old / params.repetition_penalty)
        counts = np.fromiter(self._output_counts.values(), dtype=np.float64, count=output.size)
        scores[output] -= params.presence_penalty + params.frequency_penalty * counts
        return scores


def distribution(
    scores: NDArray[np.floating[Any]], params: SamplingParams
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The tokens that can be drawn and their probabilities, after temperature, top-k and top-p.

    Args:
        scores: [vocab], after the penalties.
        params: with a temperature above 0.

    Returns:
        ids [k] and probabilities float64 [k] that sum to 1; ordered by id, or most likely first under top-p.
    """
    # Subtracting the maximum first keeps a tiny temperature from overflowing.
    with np.errstate(over="ignore"):
        scaled = (scores.astype(np.float64) - np.float64(scores.max())) / params.temperature
    if 0 < params.top_k < scaled.size:
        position = scaled.size - params.top_k
        ids = np.flatnonzero(scaled >= np.partition(scaled, position)[position])
    else:
        ids = np.arange(scaled.size)
    probabilities = np.exp(scaled[ids])
    probabilities /= probabilities.sum()
    if params.top_p < 1.0:
        kept = _nucleus(probabilities, params.top_p, params.min_tokens_to_keep)
        ids, probabilities = ids[kept], probabilities[kept]
        probabilities /= probabilities.sum()
    return ids, probabilities


def _nucleus(probabilities: NDArray[np.float64], top_p: float, min_keep: int) -> NDArray[np.intp]:
    """Positions of the most likely tokens up to the one where their sum reaches top_p, most likely first."""
    # Tokens below (1 - top_p) / n hold less than 1 - top_p together, so none is in the nucleus: not sorting
    # them saves most of the time on a large vocabulary.
    likely = np.flatnonzero(probabilities > (1.0 - top_p) / probabilities.size)
    if likely.size < min_keep:
        likely = np.arange(probabilities.size)
    # Stable: the lowest id comes first among ties.
    order = likely[np.argsort(-probabilities[likely], kind="stable")]
    num_kept = int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1
    return order[: max(num_kept, min_keep)]


def _draw(probabilities: NDArray[np.float64], uniform: float) -> int:
    """The position that a number in [0, 1) falls on."""
    cumulative = np.cumsum(probabilities)
    position = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
    # Rounding may reach the very end; the last position that has any probability is meant then.
    return int(min(position, np.searchsorted(cumulative, cumulative[-1])))


def _check_int(name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise _bad(name, value, f"a whole number of at least {low}")


def _check_number(name: str, value: object, low: float, high: float) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # The comparison also refuses NaN, infinity and whole numbers too large for a float.
    if not is_number or not low <= value <= min(high, sys.float_info.max):  # type: ignore[operator]  # a number
        span = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise _bad(name, value, f"a number {span}")


def _bad(name: str, value: object, expected: str) -> UserError:
    return UserError(f"sampling parameter {name} is {value!r}", expected=expected, fix=f"correct {name}")
