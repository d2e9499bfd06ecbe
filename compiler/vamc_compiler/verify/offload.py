"""Running a torch module whose weights do not fit in memory: each layer's are loaded before its forward, then dropped.

accelerate puts the weights of one module (a linear layer, a norm) in place when its `forward` starts and takes them
away when it ends, so memory holds one module's weights, the cache, and the activations. A module that reads the
parameters of another one finds them on the meta device: torch then raises, it does not compute with wrong values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import nn


class CachedWeights(Mapping[str, torch.Tensor]):
    """Weights by name, loaded when asked for; what fits within a limit stays in memory.

    A forward asks for all weights in the same order each time. The first ones that fit are therefore kept for good:
    dropping the least recently used one would drop each weight just before its next use.

    Args:
        load: gives a tensor by its name, with memory of its own.
        names: every name that `load` knows.
        limit_bytes: at most so much is kept; 0 keeps nothing.
    """

    def __init__(self, load: Callable[[str], torch.Tensor], names: Collection[str], limit_bytes: int) -> None:
        self._load = load
        self._names = frozenset(names)
        self._limit_bytes = limit_bytes
        self._kept: dict[str, torch.Tensor] = {}
        self.kept_bytes = 0
        """What the cache holds now."""

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._kept:
            return self._kept[name]
        if name not in self._names:
            raise KeyError(name)
        # A tensor made under inference mode would be refused by a later forward outside of it.
        with torch.inference_mode(False):
            tensor = self._load(name)
        if self.kept_bytes + tensor.nbytes <= self._limit_bytes:
            self._kept[name] = tensor
            self.kept_bytes += tensor.nbytes
        return tensor

    def __contains__(self, name: object) -> bool:
        # That of Mapping would load the tensor.
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def clear(self) -> None:
        """Drop everything that is kept; later uses load again."""
        self._kept.clear()
        self.kept_bytes = 0


def offload(model: nn.Module, weights: Mapping[str, torch.Tensor], *, buffers: bool) -> nn.Module:
    """Make `model` load its weights from `weights` module by module; changes and returns it.

    Tensors take the dtype of the parameter or buffer that they fill: nothing is converted where the two agree. Tied
    parameters are loaded under each of their names.

    Args:
        model: its parameters on the meta device (real ones are dropped).
        weights: by full name (`model.layers.0.mlp.up_proj.weight`); shapes as in `model`.
        buffers: also load the persistent buffers, wherever they lie now. Non-persistent ones (position tables) are
            filled at once and kept when they lie on the meta device. False leaves every buffer as it is.

    Raises:
        KeyError: `weights` lacks names that the model needs; all of them are listed.
        ValueError: during a forward, a tensor whose shape is not the parameter's.
    """
    from accelerate.hooks import attach_align_device_hook

    persistent = model.state_dict().keys()
    own_buffers = dict(model.named_buffers(remove_duplicate=False)) if buffers else {}
    tables = [name for name, buffer in own_buffers.items() if name not in persistent and buffer.is_meta]
    needed = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    needed.update(tables, (name for name in own_buffers if name in persistent))
    missing = sorted(name for name in needed if name not in weights)
    if missing:
        raise KeyError(f"the weights lack {', '.join(missing)}")
    for name in tables:
        path, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(path), own_name, weights[name].to(own_buffers[name].dtype))
    attach_align_device_hook(
        model, execution_device=torch.device("cpu"), offload=True, weights_map=weights, offload_buffers=buffers
    )
    return model.requires_grad_(False)
