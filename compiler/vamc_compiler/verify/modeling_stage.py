"""The modeling file in plain torch: one rank, or all ranks as threads that add up to one model."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from vamc_compiler.model.registry import ModelSource
from vamc_compiler.ops.collectives import run_ranks
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.trace.rank_module import build_rank
from vamc_compiler.verify.offload import CachedWeights, offload
from vamc_compiler.verify.parameters import RankParameters
from vamc_compiler.verify.run import Array, Run, TapCollector, TapValue, step_rows
from vamc_compiler.verify.taps import TapPlan
from vamc_runtime.executor import StepArguments

_BFLOAT16 = "bfloat16"


def _as_tensor(parameters: RankParameters, name: str) -> torch.Tensor:
    array = parameters[name]
    if parameters.specs[name].dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


class ModelingStage:
    """Every rank's module, its weights loaded layer by layer.

    Args:
        name: for people.
        source: the modeling file.
        precision: how weights are stored.
        parameters: every rank's weights.
        plan: the taps of the graph that was traced from the same modules.
        page_tokens: tokens of a cache page.
        cache_dtype: type of the cache.
    """

    def __init__(
        self,
        name: str,
        source: ModelSource,
        precision: ModelPrecision,
        parameters: Sequence[RankParameters],
        plan: TapPlan,
        *,
        page_tokens: int,
        cache_dtype: torch.dtype = torch.float16,
    ) -> None:
        self.name = name
        self._plan = plan
        self._page_tokens = page_tokens
        self._cache_dtype = cache_dtype
        self._config = source.config
        self._ranks = [
            _RankModel(source, precision, own, rank, len(parameters), plan) for rank, own in enumerate(parameters)
        ]

    def run(
        self, steps: Sequence[StepArguments], taps: Collection[str] = (), forced: Mapping[str, Array] | None = None
    ) -> Run:
        """See `Stage.run`."""
        wanted = [name for name in taps if name in self._plan.taps]

        def compute(rank: _RankModel) -> tuple[Array, dict[str, Array]]:
            return rank.run(steps, wanted, forced or {}, self._empty_cache(rank, steps))

        results = run_ranks([functools.partial(compute, rank) for rank in self._ranks])
        found = {}
        for name in wanted:
            parts = [taken[name] for _, taken in results if name in taken]
            if len(parts) == len(results):
                found[name] = self._joined(name, parts)
        return Run(results[0][0], found, self._plan.logit_columns)

    def _joined(self, name: str, parts: Sequence[Array]) -> TapValue:
        columns = self._plan.taps[name].columns
        if columns is not None:
            return TapValue(tuple(parts), columns)
        # A row-parallel layer's module gives its summand: the tap is the sum, added in the order of ranks.
        is_summand = len(parts) > 1 and name in self._plan.sums
        if not is_summand:
            return TapValue((parts[0],))
        return TapValue((np.asarray(np.sum(parts, axis=0, dtype=np.float32)),))

    def _empty_cache(self, rank: _RankModel, steps: Sequence[StepArguments]) -> list[torch.Tensor]:
        shape = (steps[0].page_table.size, 2, rank.num_kv_slots, self._page_tokens, self._config.head_dim)
        return [torch.zeros(shape, dtype=self._cache_dtype) for _ in range(self._config.num_hidden_layers)]


class _RankModel:
    """One rank's module with hooks on the modules that are tapped."""

    def __init__(
        self,
        source: ModelSource,
        precision: ModelPrecision,
        parameters: RankParameters,
        rank: int,
        num_ranks: int,
        plan: TapPlan,
    ) -> None:
        with torch.device("meta"):
            model: Any = build_rank(source, source.config.for_rank(rank, num_ranks), precision)
        self.num_kv_slots: int = model.num_kv_slots
        weights = CachedWeights(lambda name: _as_tensor(parameters, name), parameters.specs, 0)
        self._model = offload(model, weights, buffers=True)
        self._norms = {reader.path for reader in plan.readers.values() if reader.kind == "norm"}
        self._wanted: Collection[str] = ()
        self._forced: Mapping[str, Array] = {}
        self._collector = TapCollector()
        self._step: StepArguments | None = None
        modules = dict(self._model.named_modules())
        for path in sorted({name.rpartition(".")[0] for name in plan.taps} & modules.keys()):
            self._watch(path, modules[path])

    def _watch(self, path: str, module: nn.Module) -> None:
        if path in self._norms:
            module.register_forward_pre_hook(lambda _, arguments: self._before_norm(path, arguments))
        elif f"{path}.projection" not in dict(self._model.named_modules()):
            module.register_forward_pre_hook(lambda _, arguments: self._record(f"{path}.in", arguments[0]))
        module.register_forward_hook(lambda _, arguments, output: self._after(path, output))

    def _before_norm(self, path: str, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Record the stream as it arrives, and replace it where another is forced."""
        stream, *added = [value for value in arguments if value is not None]
        tap = f"{path}.in"
        self._record(tap, stream + added[0] if added else stream)
        if tap not in self._forced or self._step is None:
            return None
        given = torch.from_numpy(np.ascontiguousarray(step_rows(self._forced[tap], self._step), np.float32))
        return (given, *(torch.zeros_like(value) for value in added))

    def _after(self, path: str, output: Any) -> None:
        # A norm gives the stream and its normalised form.
        self._record(f"{path}.out", output[-1] if isinstance(output, tuple) else output)

    def _record(self, tap: str, value: torch.Tensor) -> None:
        if tap in self._wanted:
            self._collector.add(tap, value.detach().float().numpy())

    def run(
        self,
        steps: Sequence[StepArguments],
        wanted: Collection[str],
        forced: Mapping[str, Array],
        cache: list[torch.Tensor],
    ) -> tuple[Array, dict[str, Array]]:
        """Logits [t, v] and this rank's part of the taps."""
        self._wanted, self._forced, self._collector = wanted, forced, TapCollector()
        logits = []
        with torch.no_grad():
            for step in steps:
                self._step = step
                result, cache = self._model(*map(torch.from_numpy, step), cache)
                logits.append(result.numpy())
        return np.concatenate(logits), self._collector.joined()
