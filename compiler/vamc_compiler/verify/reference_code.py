"""Which code computes the original model: transformers' own class, the checkpoint's code, or the plain Baichuan.

The checkpoint's code runs only when the user trusts it, and then goes before a transformers class of the same kind:
it is what was published with the weights. None of the three shares code with the modeling files in source_code/.

Everything is local: classes come from the installed transformers or from the checkpoint's directory.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vamc_compiler.model.config import model_config_from
from vamc_compiler.verify.reference_baichuan import BaichuanReference
from vamc_runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Original:
    """A model without weights, and what it is."""

    model: nn.Module
    """In float32; parameters on the meta device, buffers computed."""
    description: str
    """For people."""
    is_own_code: bool = False
    """Whether the checkpoint brought the code, which may fail in any way."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `forward` beside `input_ids`."""


_MODEL = "AutoModelForCausalLM"
_NO_CACHE = {"use_cache": False}


def build_original(directory: Path, raw: Mapping[str, Any], *, trust_checkpoint_code: bool) -> Original | None:
    """Build the original model of a checkpoint directory, without its weights.

    Args:
        directory: the checkpoint.
        raw: its config.json.
        trust_checkpoint_code: run the code that it carries, when it carries any.

    Returns:
        None where nothing here can compute this kind of model.

    Raises:
        UserError: config.json is damaged, or the checkpoint's own code fails.
    """
    if trust_checkpoint_code and _MODEL in _auto_map(raw):
        return _build_own_code(directory, _auto_map(raw))
    if _transformers_knows(raw):
        return _build_transformers(directory)
    if _is_baichuan(raw):
        with _without_weights():
            model = BaichuanReference(model_config_from(raw, directory / "config.json"))
        return Original(model=model, description="plain Baichuan reference")
    return None


def _auto_map(raw: Mapping[str, Any]) -> dict[str, str]:
    """The classes that the checkpoint's code has for transformers' Auto classes: `file.Class` by name."""
    found = raw.get("auto_map")
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _transformers_knows(raw: Mapping[str, Any]) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return str(raw.get("model_type")) in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _is_baichuan(raw: Mapping[str, Any]) -> bool:
    """By `model_type`, or by the name of the modeling file where a checkpoint leaves that out."""
    file = _auto_map(raw).get(_MODEL, "").rpartition("--")[2].partition(".")[0]
    return (raw.get("model_type") or file) in ("baichuan", "modeling_baichuan")


def _build_transformers(directory: Path) -> Original:
    import transformers

    release = ".".join(transformers.__version__.split(".")[:2])
    try:
        config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
        with _without_weights():
            model = transformers.AutoModelForCausalLM.from_config(
                config, trust_remote_code=False, dtype=torch.float32, attn_implementation="eager"
            )
    except Exception as error:
        raise UserError(
            f"transformers {release} builds no model from {directory / 'config.json'}: {_summary(error)}",
            expected="a configuration as it was published with the weights",
            fix="compare config.json with the published one",
        ) from error
    return Original(model=model, description=f"transformers {type(model).__name__} {release}", options=_NO_CACHE)


def _build_own_code(directory: Path, auto_map: Mapping[str, str]) -> Original:
    """Import the classes that `auto_map` names; without one for the configuration, transformers' own is used."""
    from transformers import AutoConfig

    file = auto_map[_MODEL].rpartition("--")[2].partition(".")[0]
    description = f"the checkpoint's own {file}.py"
    try:
        config_class = _own_class(directory, auto_map["AutoConfig"]) if "AutoConfig" in auto_map else AutoConfig
        config = config_class.from_pretrained(directory, local_files_only=True)
        model_class = _own_class(directory, auto_map[_MODEL])
        with _without_weights():
            model: nn.Module = model_class._from_config(config, dtype=torch.float32, attn_implementation="eager")
    except Exception as error:
        raise own_code_failed(description, error) from error
    return Original(model=model, description=description, is_own_code=True, options=_NO_CACHE)


def _own_class(directory: Path, name: str) -> Any:
    """A class `file.Class` of the checkpoint; one of another repository (`owner/name--file.Class`) if it lies here."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    return get_class_from_dynamic_module(name.rpartition("--")[2], str(directory), local_files_only=True)


class OwnCodeError(UserError):
    """The code that a checkpoint brings does not run here."""


def own_code_failed(description: str, error: Exception) -> OwnCodeError:
    """The message for an error that came out of the checkpoint's own code."""
    import transformers

    return OwnCodeError(
        f"{description} does not run: {_summary(error)}",
        expected=f"code that runs under transformers {transformers.__version__} and torch {torch.__version__}",
        fix="verify without --trust-checkpoint-code, or install what the code was written for",
    )


def _summary(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def _without_weights() -> contextlib.AbstractContextManager[None]:
    """Modules made inside have parameters without memory, and real buffers: those hold computed position tables."""
    from accelerate import init_empty_weights

    context: contextlib.AbstractContextManager[None] = init_empty_weights(include_buffers=False)
    return context


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No warnings and log lines of libraries: what matters is said by the verification itself."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
