"""Which code computes the original model: transformers' own class, the checkpoint's code, or the plain Baichuan.

The checkpoint's code runs only when the user trusts it, and then goes before a transformers class of the same kind:
it is what was published with the weights. None of the three shares code with the modeling files in source_code/.

Everything is local: classes come from the installed transformers or from the checkpoint's directory.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vamc_compiler.model.config import model_config_from
from vamc_compiler.model.registry import written_for_transformers
from vamc_compiler.model.source_code import import_file, load_package
from vamc_compiler.verify.reference_baichuan import BaichuanReference, published_norm_head
from vamc_runtime.errors import UserError
from vamc_runtime.resources import raise_lack


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
_CLASS_NAME = re.compile(r"(?:[\w.-]+/[\w.-]+--)?\w{1,200}\.\w{1,200}")
"""`file.Class`, or `owner/name--file.Class`."""
_NO_CACHE = {"use_cache": False}
_NO_INFLUENCE = {"return_dict": True, "pad_token_id": None}
"""Settings that change no logits, and may stop the model: how it returns them, and a row of the embedding that training
leaves alone, which need not exist."""
_WHOLE = {"insert_slice": False, "rank_num": 1, "rank_index": 0}
"""Settings of code for VACC cards, where it is to compute all of a model: not the last token's logits only, and not one
rank's share of the heads."""


def build_original(
    directory: Path, raw: Mapping[str, Any], *, trust_checkpoint_code: bool, norm_head: bool | None = None
) -> Original | None:
    """Build the original model of a checkpoint directory, without its weights.

    Args:
        directory: the checkpoint.
        raw: its config.json.
        trust_checkpoint_code: run the code that it carries, when it carries any.
        norm_head: what the build config says of the head of a Baichuan; counts where the checkpoint says nothing.

    Returns:
        None where nothing here can compute this kind of model.

    Raises:
        UserError: config.json is damaged, or the checkpoint's own code fails.
    """
    if trust_checkpoint_code:
        vacc = written_for_transformers(directory)
        if vacc is not None:
            return _build_own_code(directory, _auto_map(vacc[0].raw), vacc[0].raw)
        if _MODEL in _auto_map(raw):
            return _build_own_code(directory, _auto_map(raw))
    if _transformers_knows(raw):
        return _build_transformers(directory)
    if _is_baichuan(raw):
        return _build_baichuan(directory, raw, norm_head)
    return None


def _build_baichuan(directory: Path, raw: Mapping[str, Any], norm_head: bool | None) -> Original:
    found = published_norm_head(directory, raw)
    is_normalised = norm_head if found is None else found
    if is_normalised is None:
        raise UserError(
            f"{directory} does not say whether its head is normalised",
            expected="the modeling_baichuan.py that was published with the weights, or the setting",
            fix="set frontend.model_kwargs.norm_head",
        )
    with _without_weights():
        config = model_config_from(raw, directory / "config.json")
        model = BaichuanReference(config, norm_head=is_normalised)
    return Original(model=model, description="plain Baichuan reference")


def _auto_map(raw: Mapping[str, Any]) -> dict[str, str]:
    """The classes that the checkpoint's code has for transformers' Auto classes: `file.Class` by name."""
    found = raw.get("auto_map")
    names = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in names if isinstance(value, str) and _CLASS_NAME.fullmatch(value)}


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
        config = transformers.AutoConfig.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True, **_NO_INFLUENCE
        )
        with _without_weights():
            model = transformers.AutoModelForCausalLM.from_config(
                config, trust_remote_code=False, dtype=torch.float32, attn_implementation="eager"
            )
    except Exception as error:
        raise_lack(error)
        raise UserError(
            f"transformers {release} builds no model from {directory / 'config.json'}: {_summary(error)}",
            expected="a configuration as it was published with the weights",
            fix="compare config.json with the published one",
        ) from error
    return Original(model=model, description=f"transformers {type(model).__name__} {release}", options=_NO_CACHE)


def _build_own_code(directory: Path, auto_map: Mapping[str, str], content: Mapping[str, Any] | None = None) -> Original:
    """Import the classes that `auto_map` names; without one for the configuration, the model class names its own.

    Args:
        directory: the checkpoint.
        auto_map: the classes.
        content: the configuration; None reads config.json.
    """
    from transformers import AutoConfig

    description = f"the checkpoint's own {_code_file(auto_map[_MODEL])}"
    for name in (auto_map.get("AutoConfig"), auto_map[_MODEL]):
        if name and not (directory / _code_file(name)).is_file():
            raise _own_code_missing(directory, name)
    try:
        model_class = _own_class(directory, auto_map[_MODEL])
        if "AutoConfig" in auto_map:
            config_class = _own_class(directory, auto_map["AutoConfig"])
        else:
            config_class = getattr(model_class, "config_class", None) or AutoConfig
        if content is None:
            config = config_class.from_pretrained(directory, local_files_only=True)
        else:
            config = config_class.from_dict({key: value for key, value in content.items() if key[:1] != "_"})
        for key, value in _WHOLE.items():
            if hasattr(config, key):
                setattr(config, key, value)
        if isinstance(getattr(model_class, "_tied_weights_keys", None), list):
            model_class._tied_weights_keys = None  # transformers 5 wants a dict; reference.py ties by itself
        with _without_weights():
            model: nn.Module = model_class._from_config(config, dtype=torch.float32, attn_implementation="eager")
    except (Exception, SystemExit) as error:
        raise_lack(error)
        raise own_code_failed(description, error) from error
    return Original(model=model, description=description, is_own_code=True, options=_NO_CACHE)


def _code_file(name: str) -> str:
    """The file of `file.Class` or `owner/name--file.Class`."""
    return f"{name.rpartition('--')[2].partition('.')[0]}.py"


def _own_class(directory: Path, name: str) -> Any:
    """A class `file.Class` of the checkpoint; one of another repository (`owner/name--file.Class`) if it lies here.

    Imported where it lies: transformers would copy it, with every file that it may import at some time, and published
    code names files in functions that nobody calls here and that were not published with it.
    """
    file, class_name = name.rpartition("--")[2].split(".")
    return getattr(import_file(load_package([directory]), file), class_name)


class OwnCodeError(UserError):
    """The code that a checkpoint brings does not run here."""


def _own_code_missing(directory: Path, name: str) -> OwnCodeError:
    file, origin = _code_file(name), name.rpartition("--")[0]
    return OwnCodeError(
        f"{directory / 'config.json'} names {file} in auto_map, which is not in {directory}",
        expected="the code beside the weights, as it was published",
        fix=f"copy the .py files{f' of {origin}' if origin else ''} there, or verify without --trust-checkpoint-code",
    )


def own_code_failed(description: str, error: BaseException) -> OwnCodeError:
    """The message for an error that came out of the checkpoint's own code."""
    import transformers

    return OwnCodeError(
        f"{description} does not run: {_summary(error)}",
        expected=f"code that runs under transformers {transformers.__version__} and torch {torch.__version__}",
        fix="verify without --trust-checkpoint-code, or install what the code was written for",
    )


def _summary(error: BaseException) -> str:
    """The kind of an error and the first line of its message; those of transformers may begin with an empty one."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def _without_weights() -> contextlib.AbstractContextManager[None]:
    """Modules made inside have parameters without memory, and real buffers: those hold computed position tables."""
    from accelerate import init_empty_weights

    context: contextlib.AbstractContextManager[None] = init_empty_weights(include_buffers=False)
    return context


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No warnings, log lines and prints: what matters is said by the verification itself.

    Code of checkpoints prints, and standard output may carry the JSON of `--json`.
    """
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
