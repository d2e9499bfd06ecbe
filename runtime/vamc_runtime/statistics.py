"""How fast a generation was, for people and for scripts."""

from __future__ import annotations

from vamc_runtime.quantities import significant


class GenerationStatistics:
    """Sums of tokens and seconds over the steps of a generation, and the times to first token."""

    def __init__(self) -> None:
        self.num_prefill_tokens = 0
        self.num_decode_tokens = 0
        self.prefill_seconds = 0.0
        self.decode_seconds = 0.0
        self.num_first_tokens = 0
        self._first_token_seconds_sum = 0.0
        self._first_token_seconds_max = 0.0

    def add_step(self, num_prefill_tokens: int, num_decode_tokens: int, seconds: float) -> None:
        """Adds one step; the time of a mixed step is shared out by token count.

        Args:
            num_prefill_tokens: prompt tokens in the step.
            num_decode_tokens: generated tokens in the step.
            seconds: how long it took.
        """
        num_tokens = num_prefill_tokens + num_decode_tokens
        assert num_tokens > 0, "a step without tokens"
        self.num_prefill_tokens += num_prefill_tokens
        self.num_decode_tokens += num_decode_tokens
        self.prefill_seconds += seconds * num_prefill_tokens / num_tokens
        self.decode_seconds += seconds * num_decode_tokens / num_tokens

    def add_first_token(self, seconds: float) -> None:
        """Adds one request's time from its arrival to its first token, in seconds."""
        self.num_first_tokens += 1
        self._first_token_seconds_sum += seconds
        self._first_token_seconds_max = max(self._first_token_seconds_max, seconds)

    def summary_line(self) -> str:
        """Like "prefill 512 tokens in 0.31 s (1,652 tok/s), decode 64 tokens in 1.2 s (53.3 tok/s)"."""
        return ", ".join(
            (
                _phase("prefill", self.num_prefill_tokens, self.prefill_seconds),
                _phase("decode", self.num_decode_tokens, self.decode_seconds),
            )
        )

    def to_dict(self) -> dict[str, int | float | None]:
        """For JSON: counts, seconds, tokens per second; None where nothing was measured."""
        count = self.num_first_tokens
        return {
            "prefill_tokens": self.num_prefill_tokens,
            "prefill_seconds": self.prefill_seconds,
            "prefill_tokens_per_second": _rate(self.num_prefill_tokens, self.prefill_seconds),
            "decode_tokens": self.num_decode_tokens,
            "decode_seconds": self.decode_seconds,
            "decode_tokens_per_second": _rate(self.num_decode_tokens, self.decode_seconds),
            "first_token_seconds_mean": self._first_token_seconds_sum / count if count else None,
            "first_token_seconds_max": self._first_token_seconds_max if count else None,
        }


def _rate(num_tokens: int, seconds: float) -> float | None:
    return num_tokens / seconds if seconds > 0 else None


def _phase(name: str, num_tokens: int, seconds: float) -> str:
    rate = _rate(num_tokens, seconds)
    # About two digits, but never an exponent.
    num_decimals = 4 if seconds < 0.01 else 2 if seconds < 1 else 1 if seconds < 10 else 0
    time = f"{seconds:.{num_decimals}f}"
    return f"{name} {num_tokens} tokens in {time} s" + (f" ({significant(rate)} tok/s)" if rate is not None else "")
