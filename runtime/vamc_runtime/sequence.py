"""The state of one request while it is generated."""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass, field
from typing import Literal

from vamc_runtime.errors import UserError
from vamc_runtime.sampling import SamplingParams

FinishReason = Literal["stop", "length"]


@dataclass(kw_only=True, eq=False)
class Sequence:
    """One request: its tokens, how far the KV cache has them, and the pages that hold them.

    Compared by identity: two requests with the same prompt are two requests.
    """

    prompt_ids: collections.abc.Sequence[int]
    """Checked by `check_prompt`; never empty."""
    params: SamplingParams
    """How to choose tokens and when to stop."""
    eos_ids: frozenset[int] = frozenset()
    """Tokens that end the output, unless params.ignore_eos."""
    output_ids: list[int] = field(default_factory=list)
    """Generated so far, a final EOS included."""
    num_computed: int = 0
    """Tokens whose keys and values are in the cache; the scheduler's."""
    max_tokens: int = 0
    """Position limit: most tokens of prompt and output together; the scheduler's."""
    pages: list[int] = field(default_factory=list)
    """KV pages in token order; the scheduler's."""
    finish_reason: FinishReason | None = None
    """None while it runs; "stop": EOS or a stop text; "length": max_new_tokens or the context is used up."""

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output together."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def is_prefilling(self) -> bool:
        """Part of the prompt is not in the cache yet."""
        return self.num_computed < len(self.prompt_ids)

    def next_ids(self, num_tokens: int) -> list[int]:
        """The next tokens to compute: a piece of the prompt, or the token generated last."""
        if self.is_prefilling:
            return list(self.prompt_ids[self.num_computed : self.num_computed + num_tokens])
        start = self.num_computed - len(self.prompt_ids)
        return self.output_ids[start : start + num_tokens]

    def append(self, token_id: int) -> None:
        """Adds a generated token and finishes the sequence where that was its last."""
        assert self.finish_reason is None, f"a token for a sequence that finished: {self.finish_reason}"
        self.output_ids.append(token_id)
        if token_id in self.eos_ids and not self.params.ignore_eos:
            self.finish_reason = "stop"
        elif self.num_tokens >= self.max_tokens:
            self.finish_reason = "length"


def check_prompt(
    ids: collections.abc.Sequence[int],
    vocab_size: int,
    max_context_tokens: int,
    *,
    min_output_tokens: int = 1,
) -> None:
    """Refuses a prompt that the model cannot take; done when the request is made.

    Args:
        ids: the prompt.
        vocab_size: rows of the model's embedding.
        max_context_tokens: C of the build, prompt and output together.
        min_output_tokens: room to leave; 0 where only the prompt is evaluated.

    Raises:
        UserError: an empty or too long prompt, or an id outside the vocabulary.
    """
    if not len(ids):
        raise UserError(
            "the prompt is empty", expected="at least one token", fix="pass a text, or a model that adds BOS"
        )
    limit = max_context_tokens - min_output_tokens
    if len(ids) > limit:
        room = f", which leaves {min_output_tokens} for the output" if min_output_tokens else ""
        raise UserError(
            f"the prompt has {len(ids)} tokens",
            expected=f"at most {limit} in a context of {max_context_tokens}{room}",
            fix="shorten the prompt, or build with a longer context (frontend.shape.input_ids)",
        )
    low, high = min(ids), max(ids)
    if low < 0 or high >= vocab_size:
        raise UserError(
            f"the prompt has token id {low if low < 0 else high}",
            expected=f"ids from 0 to {vocab_size - 1}",
            fix="use the tokenizer that belongs to this model",
        )
