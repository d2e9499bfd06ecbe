"""Modeling files that a checkpoint brings: what goes wrong in them is their author's to mend, never a bug of vamc."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from vamc_compiler.model.config import ModelConfig
from vamc_runtime.errors import UserError

STEP_ARGUMENTS = ("input_ids", "position_ids", "seq_ids", "page_table", "logits_index", "kv_cache")
"""What `forward` takes in the contract of docs/architecture.md."""
_CONTRACT = "a class in the contract of docs/architecture.md: one rank, one step over cache pages"


def checked_class(found: Any, path: Path) -> Callable[[ModelConfig], nn.Module]:
    """A class of a checkpoint's modeling file, with every way in which it is none of ours turned into a message.

    Raises:
        UserError: it is a class of transformers; and when called, that it fails or builds something else.
    """
    if any(base.__name__ == "PreTrainedModel" for base in getattr(found, "__mro__", ())):
        raise UserError(
            f"{path} is written for transformers: {found.__name__} is a PreTrainedModel",
            expected=_CONTRACT,
            fix="compile without --trust-checkpoint-code: then the built-in modeling file is taken",
        )

    def build(config: ModelConfig) -> nn.Module:
        with own_code_errors(path, "fails to build the model"):
            model = found(config)
        _check_module(model, path)
        assert isinstance(model, nn.Module), "just checked"
        return model

    return build


def _check_module(model: Any, path: Path) -> None:
    """Refuse what the trace could not use.

    Raises:
        UserError: names what is missing.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"{path} builds a {type(model).__name__}, not a torch module", expected=_CONTRACT)
    takes = inspect.signature(model.forward).parameters
    missing = [name for name in STEP_ARGUMENTS if name not in takes]
    if missing:
        raise UserError(f"{path}: forward does not take {', '.join(missing)}", expected=_CONTRACT)
    if not isinstance(getattr(model, "num_kv_slots", None), int):
        raise UserError(f"{path}: the model has no num_kv_slots", expected=_CONTRACT)
    for name, module in model.named_modules():
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for tensor, _ in own:
            if tensor not in getattr(module, "origins", {}):
                raise UserError(f"{path}: {name}.{tensor} has no origin", expected=_CONTRACT)


@contextlib.contextmanager
def own_code_errors(path: Path | str, what: str) -> Iterator[None]:
    """Errors that come out of a checkpoint's code, as messages.

    Raises:
        UserError: in place of every other exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        summary = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        raise UserError(
            f"the modeling file {path} {what}: {summary}",
            expected=_CONTRACT,
            fix="run it through python to see the line, or compile without --trust-checkpoint-code",
        ) from error
