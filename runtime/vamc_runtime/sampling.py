"""From logits to the next token: penalties, rules, temperature, top-k, top-p, draw.

As Hugging Face transformers does it, because that is what the author of a generation_config.json meant: top-p keeps
the token that crosses `top_p`, which other servers drop, and top-k keeps every token tied with the k-th.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vamc_runtime.errors import UserError
from vamc_runtime.logits_rules import LogitsRules, narrow
from vamc_runtime.parameter_checks import (
    bad,
    check_flag,
    check_int,
    check_number,
    check_token_sequences,
    check_tokens,
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

    min_new_tokens: int = 0
    """An end-of-sequence token is not chosen before this many tokens."""
    min_length: int = 0
    """An end-of-sequence token is not chosen before prompt and output have this many tokens."""
    max_length: int | None = None
    """Most tokens of prompt and output together; counts only where max_new_tokens is not given to transformers too."""
    min_p: float = 0.0
    """Only tokens with at least this share of the most likely one's probability can be drawn; 0 is off."""
    typical_p: float = 1.0
    """Only the most typical tokens with at least this probability together can be drawn; 1 is off."""
    epsilon_cutoff: float = 0.0
    """Only tokens with at least this probability can be drawn; 0 is off."""
    eta_cutoff: float = 0.0
    """As epsilon_cutoff, less where many tokens are likely; 0 is off."""
    no_repeat_ngram_size: int = 0
    """No sequence of so many tokens occurs twice in prompt and output; 0 is off."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences of tokens that are not generated; an end-of-sequence token by itself stays possible."""
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    """Sequences of tokens, and what is added to the logit of the last one where the others stand before it."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that are not generated."""
    begin_suppress_tokens: tuple[int, ...] = ()
    """Tokens that the output does not begin with."""
    forced_bos_token_id: int | None = None
    """The first token of the output, where the prompt is a single token."""
    forced_eos_token_ids: tuple[int, ...] = ()
    """The last token where the output reaches its greatest length: the first of these."""
    exponential_decay_length_penalty: tuple[int, float] | None = None
    """(start, factor): after so many tokens end-of-sequence becomes likelier by the factor with every token."""

    def __post_init__(self) -> None:
        check_int("max_new_tokens", self.max_new_tokens, 1)
        check_number("temperature", self.temperature, 0.0, math.inf)
        check_int("top_k", self.top_k, 0)
        check_number("top_p", self.top_p, 0.0, 1.0)
        check_int("min_tokens_to_keep", self.min_tokens_to_keep, 1)
        check_number("repetition_penalty", self.repetition_penalty, 0.0, math.inf)
        if self.repetition_penalty == 0:
            raise bad("repetition_penalty", self.repetition_penalty, "a number above 0")
        check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None:
            check_int("seed", self.seed, 0)
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) and text for text in self.stop):
            raise bad("stop", self.stop, "a tuple of texts, none of them empty")
        check_flag("ignore_eos", self.ignore_eos)
        for name in ("min_new_tokens", "min_length", "no_repeat_ngram_size"):
            check_int(name, getattr(self, name), 0)
        for name in ("max_length", "forced_bos_token_id"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1 if name == "max_length" else 0)
        for name in ("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
            check_number(name, getattr(self, name), 0.0, 1.0)
        for name in ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_ids"):
            check_tokens(name, getattr(self, name))
        check_token_sequences("bad_words_ids", self.bad_words_ids)
        self._check_pairs()

    def _check_pairs(self) -> None:
        """The parameters that are pairs of a thing and a number."""
        name = "sequence_bias"
        pairs = self.sequence_bias
        if not isinstance(pairs, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise bad(name, pairs, "a tuple of pairs: a tuple of token ids, and a number")
        check_token_sequences(name, tuple(tokens for tokens, _ in pairs))
        for _, bias in pairs:
            if bias != -math.inf:
                check_number(name, bias, -1e30, 1e30)
        name, decay = "exponential_decay_length_penalty", self.exponential_decay_length_penalty
        if decay is not None:
            if not isinstance(decay, tuple) or len(decay) != 2:
                raise bad(name, decay, "a number of tokens and a factor")
            check_int(name, decay[0], 0)
            check_number(name, decay[1], 0.0, math.inf)

    def max_output_tokens(self, num_prompt_tokens: int) -> int:
        """Most tokens to generate behind a prompt of so many.

        Raises:
            UserError: the prompt is as long as `max_length`.
        """
        if self.max_length is None:
            return self.max_new_tokens
        if num_prompt_tokens >= self.max_length:
            raise UserError(
                f"the prompt has {num_prompt_tokens} tokens, and max_length is {self.max_length}",
                expected="a max_length that leaves room for the output",
                fix="shorten the prompt, or give max_new_tokens",
            )
        return self.max_length - num_prompt_tokens

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any], **overrides: Any) -> SamplingParams:
        """The parameters a checkpoint's generation_config.json means, with the given fields replaced.

        As in transformers: greedy without `do_sample: true`; with it, an absent top_k means 50 and an absent
        temperature means 1. What is not followed is listed by `generation_config.unsupported`.

        Args:
            config: the object in generation_config.json; null means absent.
            overrides: fields of this class; None means not overridden.

        Raises:
            UserError: a value of the wrong type or out of range.
        """
        from vamc_runtime.generation_config import sampling_of  # which makes objects of this class

        return sampling_of(config, Path("generation_config.json"), **overrides)


class Sampler:
    """Chooses one sequence's tokens; keeps the counts its penalties need and its own random generator.

    Nothing is shared between sequences, so the same seed gives the same tokens whatever else is in the batch.

    Args:
        params: how to choose.
        prompt_ids: the prompt, which counts for the repetition penalty and the rules about sequences.
        eos_ids: tokens that end the output, which the rules about its length are about.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], eos_ids: frozenset[int] = frozenset()
    ) -> None:
        self._params = params
        self._rng = np.random.default_rng(params.seed)
        self._prompt_ids = frozenset(prompt_ids) if params.repetition_penalty != 1.0 else frozenset()
        self._output_counts: dict[int, int] = {}
        rules = LogitsRules(params, prompt_ids, eos_ids)
        self._rules = rules if rules.are_needed else None

    def sample(self, logits: NDArray[np.float32]) -> int:
        """The next token.

        Args:
            logits: float32 [vocab], left unchanged.

        Raises:
            RuntimeError: a logit is NaN or infinite, which only a fault in the model or its weights makes.
            UserError: the rules name a token that the model has not, or leave none to choose.
        """
        num_bad = logits.size - int(np.count_nonzero(np.isfinite(logits)))
        if num_bad:
            num_tokens = sum(self._output_counts.values())
            raise RuntimeError(
                f"{num_bad} of {logits.size} logits are NaN or infinite after {num_tokens} generated tokens: "
                "the compiled model or its weights are wrong"
            )
        params = self._params
        scores = self._adjusted(logits)
        if params.temperature == 0:
            token = int(np.argmax(scores))
        else:
            ids, probabilities = distribution(scores, params)
            token = int(ids[_draw(probabilities, self._rng.random())])
        self._output_counts[token] = self._output_counts.get(token, 0) + 1
        if self._rules is not None:
            self._rules.add(token)
        return token

    def _adjusted(self, logits: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """The logits after penalties and rules; the same array where none applies."""
        params, rules = self._params, self._rules
        has_penalties = params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty
        if rules is None and not has_penalties:
            return logits
        scores = logits.astype(np.float64)
        if rules is not None:
            rules.bias(scores)
        if has_penalties:
            self._penalise(scores)
        if rules is not None:
            rules.apply(scores)
            if scores.max() == -np.inf:
                raise UserError(
                    "the sampling parameters forbid every token",
                    expected="bad_words_ids, suppress_tokens and the like that leave a token to choose",
                    fix="correct them; a checkpoint's are in its generation_config.json",
                )
        return scores

    def _penalise(self, scores: NDArray[np.float64]) -> None:
        """The penalties for tokens that were there before, in place."""
        params = self._params
        output = np.fromiter(self._output_counts, dtype=np.int64, count=len(self._output_counts))
        if params.repetition_penalty != 1.0:
            seen = np.fromiter(self._prompt_ids.union(self._output_counts), dtype=np.int64)
            old = scores[seen]
            with np.errstate(over="ignore"):
                new = np.where(old < 0, old * params.repetition_penalty, old / params.repetition_penalty)
            # Two infinities would have no difference. Those that a bias set stay.
            scores[seen] = np.where(np.isfinite(old), np.clip(new, -sys.float_info.max, sys.float_info.max), old)
        counts = np.fromiter(self._output_counts.values(), dtype=np.float64, count=output.size)
        scores[output] -= params.presence_penalty + params.frequency_penalty * counts


def distribution(
    scores: NDArray[np.floating[Any]], params: SamplingParams
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The tokens that can be drawn and their probabilities, after temperature, top-k, top-p and the other cutoffs.

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
    if params.min_p or params.typical_p < 1.0 or params.epsilon_cutoff or params.eta_cutoff:
        chosen = narrow(probabilities, params)
        ids, probabilities = ids[chosen], probabilities[chosen]
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
