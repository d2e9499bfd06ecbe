"""The original model in float32 torch: what every other stage is measured against.

Weights are read from the checkpoint module by module (`offload.py`), so the model may be larger than memory. Which
code computes is decided in `reference_code.py`.

Dimension letters: t tokens, w width of a tap, v vocabulary.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vamc_compiler.model.json_file import read_json
from vamc_compiler.transforms import FLOAT_TYPES
from vamc_compiler.verify.offload import CachedWeights, offload
from vamc_compiler.verify.reference_baichuan import BaichuanReference
from vamc_compiler.verify.reference_code import Original, build_original, own_code_failed, silence
from vamc_compiler.weights.checkpoint import Checkpoint
from vamc_compiler.weights.stored_tensor import ITEM_BYTES, StoredTensor
from vamc_runtime.errors import UserError
from vamc_runtime.resources import raise_lack

Values = npt.NDArray[np.float32]

_READ_BYTES = 32 << 20
"""How much of a tensor is read and converted at a time."""


@dataclass(frozen=True, kw_only=True)
class ReferenceRun:
    """What one forward computed."""

    logits: Values
    """float32 [t, v]."""
    taps: Mapping[str, Values]
    """float32 [t, w] by name; those asked for whose module exists."""


class Reference:
    """The original model, ready to run; made by `open_reference`."""

    description: str
    """For people: which code it is."""

    def __init__(self, original: Original, weights: CachedWeights) -> None:
        self.description = original.description
        self._original = original
        self._weights = weights
        self._model = offload(original.model, weights, buffers=False).eval()
        self._initial = [(module, dict(vars(module)), dict(module._buffers)) for module in self._model.modules()]

    def run(self, token_ids: Sequence[int], taps: Collection[str] = ()) -> ReferenceRun:
        """One forward over one sequence, from position 0 and without a cache.

        Args:
            token_ids: the sequence, at least one token.
            taps: values to give back too. `<module path>.in` is the first argument of a module, `<module path>.out`
                what it returns (the first of several), without its bias; paths are those of the checkpoint's tensors.

        Raises:
            UserError: the checkpoint's own code fails.
        """
        found: dict[str, Values] = {}
        hooks = self._hook(taps, found)
        try:
            with torch.no_grad(), silence():
                output = self._model(input_ids=torch.tensor([list(token_ids)]), **self._original.options)
                logits = _rows(getattr(output, "logits", _first(output)))
        except (Exception, SystemExit) as error:
            if not self._original.is_own_code or isinstance(error, UserError):
                raise
            raise_lack(error)
            raise own_code_failed(self.description, error) from error
        finally:
            for hook in hooks:
                hook.remove()
            self._reset()
        for tap, rows in found.items():
            self._leave_bias_out(tap, rows)
        return ReferenceRun(logits=logits, taps=found)

    def _leave_bias_out(self, tap: str, rows: Values) -> None:
        """A linear layer is tapped before its bias: other stages add it in an operation of its own."""
        path, _, side = tap.rpartition(".")
        if side == "out" and (bias := f"{path}.bias") in self._weights:
            rows -= self._weights[bias].numpy()

    def close(self) -> None:
        """Drop the weights that are kept in memory; a later run reads them again."""
        self._weights.clear()

    def _hook(self, taps: Collection[str], found: dict[str, Values]) -> list[Any]:
        """Make the modules note what is asked for; returns the hooks, to be removed."""
        modules = dict(self._model.named_modules())
        hooks = []
        for tap in taps:
            path, _, side = tap.rpartition(".")
            if path in modules and side == "in":
                hook = functools.partial(_take_input, tap, found)
                hooks.append(modules[path].register_forward_pre_hook(hook, with_kwargs=True))
            elif path in modules and side == "out":
                hooks.append(modules[path].register_forward_hook(functools.partial(_take_output, tap, found)))
        return hooks

    def _reset(self) -> None:
        """Forget what modules noted about the run.

        Baichuan2's published head normalises its weight in its first forward and notes that it is done; the next
        forward gets the weight from the checkpoint again and must not believe the note.
        """
        for module, attributes, buffers in self._initial:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) else output


def _take_input(
    tap: str, found: dict[str, Values], _: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> None:
    if arguments:
        found[tap] = _rows(arguments[0])
    elif "hidden_states" in named:
        found[tap] = _rows(named["hidden_states"])
    else:
        found[tap] = _rows(next(value for value in named.values() if isinstance(value, torch.Tensor)))


def _take_output(tap: str, found: dict[str, Values], _: nn.Module, arguments: Any, output: Any) -> None:
    found[tap] = _rows(_first(output))


def _rows(value: torch.Tensor) -> Values:
    """A copy of a value [1, t, w], or of ids [1, t], as float32 [t, w]."""
    width = value.shape[-1] if value.is_floating_point() else 1
    rows: Values = value.detach().to(torch.float32, copy=True).reshape(-1, width).numpy()
    return rows


def open_reference(
    checkpoint_dir: Path,
    checkpoint: Checkpoint,
    *,
    trust_checkpoint_code: bool,
    cache_bytes: int,
    norm_head: bool | None = None,
) -> Reference | None:
    """Choose and build the original model; no weights are read yet.

    Args:
        checkpoint_dir: with config.json, and perhaps modeling code.
        checkpoint: the index of its tensors.
        trust_checkpoint_code: run the code that the checkpoint carries, when it carries any.
        cache_bytes: how much of the weights, as float32, stays in memory between runs.
        norm_head: what the build config says of the head of a Baichuan; counts where the checkpoint says nothing.

    Returns:
        None where nothing here can compute this kind of model.

    Raises:
        UserError: config.json is damaged, weights are missing or of other shapes, or the checkpoint's own code fails.
    """
    raw = read_json(checkpoint_dir / "config.json", "the model configuration")
    with silence():
        original = build_original(checkpoint_dir, raw, trust_checkpoint_code=trust_checkpoint_code, norm_head=norm_head)
    if original is None:
        return None
    model = original.model
    stored = _find_tensors(original, checkpoint, tied=_tied_names(model, raw))
    _fill_buffers(model, checkpoint)
    weights = CachedWeights(lambda name: _read_float32(stored[name]), stored.keys(), cache_bytes)
    return Reference(original, weights)


def _tied_names(model: Any, raw: Mapping[str, Any]) -> dict[str, str]:
    """The head's weight and the embedding's, each by the name of the other, where the two are one tensor."""
    names: tuple[str, ...] = ()
    if isinstance(model, BaichuanReference):
        names = ("lm_head.weight", "model.embed_tokens.weight") if raw.get("tie_word_embeddings") else ()
    elif model.config.tie_word_embeddings:
        paths = {module: f"{path}.weight" for path, module in model.named_modules()}
        modules = (model.get_output_embeddings(), model.get_input_embeddings())
        names = tuple(paths[module] for module in modules if module in paths)
    return dict(zip(names, reversed(names), strict=True)) if len(names) == 2 else {}


def _find_tensors(original: Original, checkpoint: Checkpoint, *, tied: Mapping[str, str]) -> dict[str, StoredTensor]:
    """Where every parameter lies, by the names that the files use: those of `fit.py` are for the compiler.

    The prefix of the base model may be left out of stored names, or be one too many; `tied` names another tensor for
    those that the checkpoint leaves out.

    Raises:
        UserError: a tensor is missing, has another shape, or is no float.
    """
    by_name = {checkpoint.stored_names.get(name, name): tensor for name, tensor in checkpoint.tensors.items()}
    stored: dict[str, StoredTensor] = {}
    problems = []
    for name, parameter in original.model.named_parameters(remove_duplicate=False):
        source = next((known for known in _stored_names(original.model, name, tied) if known in by_name), name)
        tensor = by_name.get(source)
        if tensor is None:
            problems.append(f"{source} is missing")
        elif tensor.shape != tuple(parameter.shape):
            problems.append(f"{source} has shape {list(tensor.shape)}, not {list(parameter.shape)}")
        elif tensor.dtype not in FLOAT_TYPES:
            problems.append(f"{source} has type {tensor.dtype}, not {', '.join(FLOAT_TYPES)}")
        else:
            stored[name] = tensor
    if problems:
        shown = "".join(f"\n  - {problem}" for problem in problems[:8])
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise UserError(
            f"the weights in {checkpoint.directory} are not those of {original.description}:{shown}{more}",
            expected="the tensors that config.json describes",
            fix="finish the download of the checkpoint; config.json and weights must belong together",
        )
    return stored


def _stored_names(model: Any, name: str, tied: Mapping[str, str]) -> Iterator[str]:
    """The names under which a checkpoint may store a parameter, likeliest first (transformers, rename_source_key)."""
    prefix = f"{getattr(model, 'base_model_prefix', '') or 'model'}."
    for parameter in (name, tied.get(name)):
        if parameter is not None:
            yield from (parameter, parameter.removeprefix(prefix), prefix + parameter)


def _fill_buffers(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Some published code keeps its rotary frequencies among the weights: those count, not the computed ones."""
    persistent = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        tensor = None if name not in persistent else checkpoint.tensors.get(name)
        if tensor is not None and tensor.dtype in FLOAT_TYPES and tensor.shape == tuple(buffer.shape):
            buffer.copy_(_read_float32(tensor))


def _read_float32(tensor: StoredTensor) -> torch.Tensor:
    """A whole tensor as float32; beyond the result, memory for `_READ_BYTES` only.

    Raises:
        UserError: the file became shorter.
        OSError: reading failed.
    """
    result = torch.empty(tensor.shape)
    flat, dtype = result.view(-1), getattr(torch, tensor.dtype)
    item_bytes = ITEM_BYTES[tensor.dtype]
    step = _READ_BYTES // item_bytes
    with tensor.path.open("rb") as file:
        for begin in range(0, flat.numel(), step):
            part = flat[begin : begin + step]
            data = bytearray(part.numel() * item_bytes)
            if os.preadv(file.fileno(), [data], tensor.offset + begin * item_bytes) != len(data):
                raise UserError(
                    f"{tensor.path} became shorter while it was read",
                    fix="leave the checkpoint alone while it is verified, then verify again",
                )
            part.copy_(torch.frombuffer(data, dtype=dtype))
    return result
