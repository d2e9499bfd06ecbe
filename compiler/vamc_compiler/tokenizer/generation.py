"""The checkpoint's generation settings, as transformers finds them, and which of them the runtime does not follow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vamc_runtime.errors import UserError
from vamc_runtime.generation_config import check_token_ids, sampling_of, unsupported
from vamc_runtime.text.checkpoint_files import read_json

FILE = "generation_config.json"


@dataclass(frozen=True)
class GenerationFiles:
    """Generation settings for a runstream."""

    files: Mapping[str, bytes]
    """generation_config.json, or nothing where the checkpoint says nothing."""
    warnings: tuple[str, ...]
    """Settings that change a text and are not followed."""


def generation_files(checkpoint: Path, vocab_size: int) -> GenerationFiles:
    """generation_config.json as it is; without one, what transformers makes of config.json.

    Raises:
        UserError: the file is damaged, or a value has the wrong type or is out of range.
    """
    path = checkpoint / FILE
    if path.exists():
        config = read_json(path)
        files = {FILE: path.read_bytes()}
    else:
        path = checkpoint / "config.json"
        config = _from_model_config(checkpoint, read_json(path))
        files = {FILE: json.dumps(config, indent=2).encode()} if config else {}
    check_token_ids(config, vocab_size, sampling_of(config, path), path)
    return GenerationFiles(
        files, tuple(f"{path}: {key} is {value!r}, which {reason}" for key, value, reason in unsupported(config))
    )


def _from_model_config(checkpoint: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """What transformers takes for generation settings when there are none: a few keys of the model's configuration."""
    import transformers

    model_config: Any = dict(raw)
    try:
        model_config = transformers.AutoConfig.from_pretrained(
            str(checkpoint), local_files_only=True, trust_remote_code=False
        )
    except Exception:
        model_config = dict(raw)  # a model that transformers does not know: its file speaks for itself
    try:
        settings = transformers.GenerationConfig.from_model_config(model_config).to_diff_dict()
    except Exception as error:
        raise UserError(
            f"{checkpoint / 'config.json'}: its generation settings cannot be read: {error}",
            fix="correct them, or add a generation_config.json",
        ) from error
    return {
        key: value
        for key, value in settings.items()
        if not key.startswith("_") and key != "transformers_version" and value is not None
    }
