"""What a generation_config.json means for sampling: which keys are followed, which change nothing, which are not.

Follows transformers 5.24, `generation/configuration_utils.GenerationConfig` and `GenerationMixin.generate`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vamc_runtime.errors import UserError
from vamc_runtime.parameter_checks import check_flag
from vamc_runtime.sampling import SamplingParams
from vamc_runtime.stored_path import ReadablePath

_DEFAULT_TOP_K = 50
"""What transformers samples with when a generation_config.json does not give top_k."""
_NUMBERS = (
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "forced_bos_token_id",
)
"""Keys that mean the field of the same name."""
_ONLY_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""The same, and in greedy search they mean nothing."""
_LISTS = ("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens")
_TUPLES = ("exponential_decay_length_penalty",)
_OTHERS = (
    "do_sample",
    "eos_token_id",
    "bos_token_id",
    "forced_eos_token_id",
    "stop_strings",
    "user_token_id",
    "assistant_token_id",
)
_WITHOUT_EFFECT = re.findall(
    r"\w+",
    """
    pad_token_id decoder_start_token_id transformers_version use_cache cache_implementation cache_config max_cache_len
    output_attentions output_hidden_states output_scores output_logits return_dict_in_generate return_legacy_cache
    renormalize_logits remove_invalid_values early_stopping length_penalty diversity_penalty is_assistant
    num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold assistant_lookbehind
    target_lookbehind assistant_early_exit prompt_lookup_num_tokens max_matching_ngram_size speculation_type use_mtp
    compile_config disable_compile low_memory continuous_batching_config prefill_chunk_size custom_generate
    _from_model_config
    """,
)
"""Keys that change no text of one sequence at a time, or only together with one that is not followed."""
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "guidance_scale": (1, 1.0),
    "encoder_repetition_penalty": (1, 1.0),
    "encoder_no_repeat_ngram_size": (0,),
    "token_healing": (False,),
    "penalty_alpha": (0, 0.0),
    "assistant_ensemble_weight": (),
    "watermarking_config": (),
    "max_time": (),
    "top_h": (),
    "constraints": (),
    "force_words_ids": (),
    "dola_layers": (),
}
"""Keys that are not followed, and the values at which they mean nothing."""
_OF_OTHER_PROGRAMS: Mapping[str, tuple[object, ...]] = {"presence_penalty": (0, 0.0), "frequency_penalty": (0, 0.0)}
"""Fields of SamplingParams that transformers has no setting for, and the values at which they mean nothing."""


def sampling_of(config: Mapping[str, Any], path: ReadablePath, **overrides: Any) -> SamplingParams:
    """The parameters that generation settings mean, with the given fields replaced.

    Args:
        config: the object in the file; null means absent.
        path: the file, for messages.
        overrides: fields of SamplingParams; None means not overridden.

    Raises:
        UserError: a value has the wrong type or is out of range; it names the file where the value is the file's.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        values = _fields_of(config)
        if "max_new_tokens" in values or "max_new_tokens" in given:
            values.pop("max_length", None)
        own = SamplingParams(**{key: value for key, value in values.items() if key not in given})
    except UserError as error:
        found = error.found.replace("sampling parameter ", f"{path}: ", 1)
        raise UserError(found, expected=error.expected, fix=error.fix) from error
    return SamplingParams(**{**vars(own), **given})


def _fields_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of SamplingParams by name, their values as they stand in the file but for lists."""
    present = {key: value for key, value in config.items() if value is not None}
    check_flag("do_sample", present.get("do_sample", False))
    samples = present.get("do_sample", False)
    values = {key: present[key] for key in _NUMBERS if key in present}
    values |= {key: present[key] for key in _ONLY_SAMPLING if key in present}
    values |= {key: _tuples(present[key]) for key in (*_LISTS, *_TUPLES) if key in present}
    if "forced_eos_token_id" in present:
        ids = present["forced_eos_token_id"]
        values["forced_eos_token_ids"] = _tuples(ids if isinstance(ids, list) else [ids])
    if "stop_strings" in present:
        stop = present["stop_strings"]
        values["stop"] = _tuples([stop] if isinstance(stop, str) else stop)
    SamplingParams(**values)  # in greedy search too, a wrong value is a sign of a damaged file
    if not samples:
        values["temperature"] = 0.0
        return values
    values.setdefault("temperature", 1.0)
    values.setdefault("top_k", _DEFAULT_TOP_K)
    return values


def _tuples(value: object) -> object:
    """JSON's lists as tuples, all the way down."""
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def unsupported(config: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Settings that may change what transformers generates, and that are not followed.

    Yields:
        Key, value, and what becomes of it as the end of a sentence that begins "which".
    """
    followed = {*_NUMBERS, *_ONLY_SAMPLING, *_LISTS, *_TUPLES, *_OTHERS, *_WITHOUT_EFFECT}
    for key, value in config.items():
        if value is None or key in followed:
            continue
        values = {**_NEUTRAL, **_OF_OTHER_PROGRAMS}.get(key)
        if values is None:
            yield key, value, "is no setting that is known here"
        elif any(value == neutral and type(value) is type(neutral) for neutral in values):
            continue
        elif key in _OF_OTHER_PROGRAMS:
            yield key, value, "transformers ignores, and so does vamc: give it as a sampling parameter"
        else:
            yield key, value, "is not followed: transformers may generate another text"


def check_token_ids(config: Mapping[str, Any], vocab_size: int, params: SamplingParams, path: ReadablePath) -> None:
    """Refuse settings that name tokens which the model does not have, where transformers refuses them too.

    Raises:
        UserError: such a token.
    """
    named = {
        "bad_words_ids": [token for tokens in params.bad_words_ids for token in tokens],
        "sequence_bias": [token for tokens, _ in params.sequence_bias for token in tokens],
        "forced_eos_token_id": list(params.forced_eos_token_ids),
        "forced_bos_token_id": [] if params.forced_bos_token_id is None else [params.forced_bos_token_id],
    }
    for key, ids in named.items():
        if max(ids, default=-math.inf) >= vocab_size:
            raise UserError(
                f"{path}: {key} names token {max(ids)}",
                expected=f"ids from 0 to {vocab_size - 1}, the model's vocabulary",
                fix=f"correct {key}",
            )
