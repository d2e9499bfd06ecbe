"""Stored tensors that change nothing: buffers that old versions of modeling code saved beside the weights."""

from __future__ import annotations

import re

_REASONS = {
    r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$": "position tables, computed from config.json",
    r"(^|\.)(causal_mask|attn_mask|future_mask)$": "the causal mask, which depends on the length alone",
    r"(^|\.)(alibi_mask|alibi)$": "ALiBi biases, computed from the number of heads",
    r"(^|\.)(attn|attention|self_attn)\.masked_bias$": "what masked scores are set to",
    r"(^|\.)position_ids$": "the numbers 0, 1, 2, ...",
}
"""Pattern of a tensor's name, and why it may be left over."""


def why_meaningless(name: str) -> str:
    """Why a stored tensor that no model reads may be ignored; empty when it may not."""
    return next((reason for pattern, reason in _REASONS.items() if re.search(pattern, name)), "")
