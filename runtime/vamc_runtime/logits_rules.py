"""The rules of transformers' `generate` that forbid, force or favour tokens, for one sequence.

Follows transformers 5.24, `generation/logits_process.py`, in the order of `GenerationMixin._get_logits_processor`.
Repetition, presence and frequency penalties are the sampler's own and come between `bias` and the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vamc_runtime.errors import UserError

if TYPE_CHECKING:
    from vamc_runtime.sampling import SamplingParams

Scores = NDArray[np.floating[Any]]
_FORBIDDEN = -np.inf


class LogitsRules:
    """The rules of one sequence; they see its prompt and every token it gets.

    Args:
        params: which rules.
        prompt_ids: the prompt.
        eos_ids: tokens that end the output.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], eos_ids: frozenset[int]) -> None:
        self._params = params
        self._tokens = list(prompt_ids)
        self._num_prompt = len(prompt_ids)
        # Some checkpoints write -1 for none.
        self._eos = np.array(sorted(token for token in eos_ids if token >= 0), np.int64)
        biases = {tokens: bias for tokens, bias in params.sequence_bias if tokens}
        ends = {(token,) for token in eos_ids}
        forbidden = {tokens: _FORBIDDEN for tokens in params.bad_words_ids if tokens not in ends}
        self._biases = (biases, forbidden)
        self._followers: dict[tuple[int, ...], set[int]] = {}
        if params.no_repeat_ngram_size:
            for end in range(params.no_repeat_ngram_size, len(self._tokens) + 1):
                self._note_ngram(end)
        self._is_checked = False

    @property
    def are_needed(self) -> bool:
        """Whether any rule is on."""
        params = self._params
        return bool(
            params.sequence_bias
            or params.bad_words_ids
            or params.no_repeat_ngram_size
            or params.min_length
            or params.min_new_tokens
            or params.forced_bos_token_id is not None
            or params.forced_eos_token_ids
            or params.exponential_decay_length_penalty
            or params.suppress_tokens
            or params.begin_suppress_tokens
        )

    def add(self, token: int) -> None:
        """Note a token that was chosen."""
        self._tokens.append(token)
        if self._params.no_repeat_ngram_size:
            self._note_ngram(len(self._tokens))

    def _note_ngram(self, end: int) -> None:
        size = self._params.no_repeat_ngram_size
        if end >= size:
            *before, last = self._tokens[end - size : end]
            self._followers.setdefault(tuple(before), set()).add(last)

    def bias(self, scores: NDArray[np.float64]) -> None:
        """`sequence_bias`, in place.

        Raises:
            UserError: it names a token that the model has not.
        """
        self._check_ids(scores.size)
        self._add_biases(scores, self._biases[0])

    def apply(self, scores: NDArray[np.float64]) -> None:
        """Every other rule, in place; forbidden tokens get minus infinity.

        Args:
            scores: float64 [vocab].
        """
        params, length = self._params, len(self._tokens)
        if params.no_repeat_ngram_size and length >= params.no_repeat_ngram_size:
            before = tuple(self._tokens[length + 1 - params.no_repeat_ngram_size :])
            scores[[token for token in self._followers.get(before, ()) if token < scores.size]] = _FORBIDDEN
        self._add_biases(scores, self._biases[1])
        num_new = length - self._num_prompt
        if length < params.min_length or num_new < params.min_new_tokens:
            scores[self._eos[self._eos < scores.size]] = _FORBIDDEN
        if params.forced_bos_token_id is not None and length == 1:
            _force(scores, (params.forced_bos_token_id,))
        if params.forced_eos_token_ids and num_new == params.max_output_tokens(self._num_prompt) - 1:
            _force(scores, params.forced_eos_token_ids)
        self._lengthen(scores, num_new)
        _forbid(scores, params.suppress_tokens)
        begin = 1 if self._num_prompt <= 1 and params.forced_bos_token_id is not None else 0
        if num_new == begin:
            _forbid(scores, params.begin_suppress_tokens)

    def _add_biases(self, scores: NDArray[np.float64], biases: dict[tuple[int, ...], float]) -> None:
        for tokens, bias in biases.items():
            *before, last = tokens
            if not before or self._tokens[-len(before) :] == before:
                scores[last] += bias

    def _lengthen(self, scores: NDArray[np.float64], num_new: int) -> None:
        """`exponential_decay_length_penalty`: EOS becomes likelier the longer the output is."""
        if not self._params.exponential_decay_length_penalty:
            return
        start, factor = self._params.exponential_decay_length_penalty
        if num_new > start:
            eos = self._eos[self._eos < scores.size]
            old = scores[eos]
            with np.errstate(over="ignore"):
                growth = np.abs(old) * (np.power(np.float64(factor), num_new - start) - 1)
            scores[eos] = np.where(np.isfinite(old), old + growth, old)

    def _check_ids(self, vocab_size: int) -> None:
        if self._is_checked:
            return
        params, forced_bos = self._params, self._params.forced_bos_token_id
        named = {
            "sequence_bias": [token for tokens, _ in params.sequence_bias for token in tokens],
            "bad_words_ids": [token for tokens in params.bad_words_ids for token in tokens],
            "forced_bos_token_id": [] if forced_bos is None else [forced_bos],
            "forced_eos_token_ids": list(params.forced_eos_token_ids),
        }
        for name, ids in named.items():
            if ids and max(ids) >= vocab_size:
                raise UserError(
                    f"{name} has token id {max(ids)}",
                    expected=f"ids from 0 to {vocab_size - 1}",
                    fix=f"correct {name}",
                )
        self._is_checked = True


def narrow(probabilities: NDArray[np.float64], params: SamplingParams) -> NDArray[np.bool_]:
    """Which of the tokens that top-k and top-p left can be drawn, after min-p, typical-p, epsilon and eta cutoff.

    Args:
        probabilities: float64 [k], of what is left; they sum to 1.
        params: the cutoffs.

    Returns:
        bool [k]; at least one is True.
    """
    kept = np.ones(probabilities.size, np.bool_)
    for rule in (_min_p, _typical, _epsilon, _eta):
        left = probabilities[kept] / probabilities[kept].sum()
        kept[kept] = rule(left, params)
    return kept


def _min_p(probabilities: NDArray[np.float64], params: SamplingParams) -> NDArray[np.bool_]:
    return _with_top(probabilities >= params.min_p * probabilities.max(), probabilities)


def _typical(probabilities: NDArray[np.float64], params: SamplingParams) -> NDArray[np.bool_]:
    """The tokens whose information is nearest to the entropy, until they hold `typical_p` (arXiv 2202.00666)."""
    if params.typical_p >= 1.0:
        return np.ones(probabilities.size, np.bool_)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = -np.log(probabilities)
        distance = np.abs(information - np.nansum(information * probabilities))
    order = np.argsort(distance, kind="stable")
    last = min(int(np.count_nonzero(np.cumsum(probabilities[order]) < params.typical_p)), order.size - 1)
    kept: NDArray[np.bool_] = distance <= distance[order[last]]
    kept[order[0]] = True
    return kept


def _epsilon(probabilities: NDArray[np.float64], params: SamplingParams) -> NDArray[np.bool_]:
    return _with_top(probabilities >= params.epsilon_cutoff, probabilities)


def _eta(probabilities: NDArray[np.float64], params: SamplingParams) -> NDArray[np.bool_]:
    """A cutoff that falls with the entropy (arXiv 2210.15191)."""
    if not params.eta_cutoff:
        return np.ones(probabilities.size, np.bool_)
    positive = probabilities[probabilities > 0]
    entropy = -float((positive * np.log(positive)).sum())
    cutoff = min(params.eta_cutoff, float(np.sqrt(params.eta_cutoff) * np.exp(-entropy)))
    return _with_top(probabilities >= cutoff, probabilities)


def _with_top(kept: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
    with_top: NDArray[np.bool_] = kept | (probabilities == probabilities.max())
    return with_top


def _force(scores: NDArray[np.float64], tokens: Sequence[int]) -> None:
    scores[:] = _FORBIDDEN
    scores[list(tokens)] = 0.0


def _forbid(scores: NDArray[np.float64], tokens: Sequence[int]) -> None:
    scores[[token for token in tokens if token < scores.size]] = _FORBIDDEN
