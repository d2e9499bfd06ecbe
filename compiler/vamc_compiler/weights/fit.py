"""A checkpoint's tensors against the model's parameters: names made equal, whatever does not fit refused.

Names are resolved as transformers 5 does: the prefix of the base model may be left out or be too many, and a head
that shares the embedding's tensor is stored under either name or both (core_model_loading.py, `rename_source_key`,
and modeling_utils.py, `tie_weights`, 5.24). A stored tensor that the model does not use is refused by name, where
transformers only warns: it belongs to another model than the one that config.json describes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vamc_compiler.model.registry import EMBEDDING_TENSOR, HEAD_TENSOR, ModelSource
from vamc_compiler.parameters import Origin, ParameterSpec, Source
from vamc_compiler.transforms import Shape
from vamc_compiler.weights.checkpoint import Checkpoint
from vamc_compiler.weights.meaningless import why_meaningless
from vamc_compiler.weights.stored_tensor import StoredTensor
from vamc_compiler.weights.weight_files import list_some
from vamc_runtime.errors import UserError

BASE_PREFIX = "model."
"""What the names of all tensors but the head's begin with in a model with a head."""

Ranks = list[list[ParameterSpec]]


@dataclass(frozen=True)
class Fitted:
    """A model and a checkpoint that fit together."""

    source: ModelSource
    """With the head that the checkpoint holds."""
    checkpoint: Checkpoint
    """With the model's names."""
    ranks: Ranks
    """Every rank's parameters."""


def fit_checkpoint(source: ModelSource, checkpoint: Checkpoint, list_ranks: Callable[[ModelSource], Ranks]) -> Fitted:
    """Find the model's tensors in a checkpoint, and check that there are no others.

    Args:
        source: the model as config.json describes it.
        checkpoint: as `open_checkpoint` found it.
        list_ranks: gives every rank's parameters.

    Raises:
        UserError: tensors are missing, of another shape, of a type that is not 16- or 32-bit float, or not used.
    """
    ranks = list_ranks(source)
    checkpoint = with_model_names(checkpoint, {HEAD_TENSOR, *_tensor_names(ranks)})
    if source.config.tie_word_embeddings:
        checkpoint = _with_embedding(checkpoint)
    fitted = source.with_tensors(checkpoint.tensors)
    if fitted is not source:
        ranks = list_ranks(fitted)
    problems = dict.fromkeys(problem for rank in ranks for problem in _misfits(checkpoint, rank))
    unused = _unused(checkpoint, _tensor_names(ranks), fitted.ignored_tensors())
    problems.update(dict.fromkeys(f"{name} is stored, but not used{_hint(name, fitted)}" for name in unused))
    if problems:
        raise _do_not_fit(checkpoint, list(problems))
    return Fitted(fitted, checkpoint, ranks)


def _tensor_names(ranks: Iterable[Iterable[ParameterSpec]]) -> set[str]:
    return {name for rank in ranks for spec in rank for name in spec.tensors}


def with_model_names(checkpoint: Checkpoint, needed: Collection[str]) -> Checkpoint:
    """The checkpoint with `needed` names where it stores them without the base model's prefix, or with one too many.

    Raises:
        UserError: a tensor is stored under both names.
    """
    tensors: dict[str, StoredTensor] = {}
    stored_names: dict[str, str] = {}
    for stored, tensor in checkpoint.tensors.items():
        candidates = (stored, stored.removeprefix(BASE_PREFIX), BASE_PREFIX + stored)
        name = next((candidate for candidate in candidates if candidate in needed), stored)
        if name in tensors:
            raise UserError(
                f"{checkpoint.directory} stores both {stored_names.get(name, name)} and {stored}",
                expected=f"one tensor for {name}",
                fix="remove files that belong to another save of the model",
            )
        tensors[name] = tensor
        if name != stored:
            stored_names[name] = stored
    return replace(checkpoint, tensors=tensors, stored_names=stored_names)


def _with_embedding(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with an embedding, where the tensor that head and embedding share has the head's name only."""
    if EMBEDDING_TENSOR in checkpoint.tensors or HEAD_TENSOR not in checkpoint.tensors:
        return checkpoint
    head = checkpoint.stored_names.get(HEAD_TENSOR, HEAD_TENSOR)
    return replace(
        checkpoint,
        tensors={**checkpoint.tensors, EMBEDDING_TENSOR: checkpoint.tensors[HEAD_TENSOR]},
        stored_names={**checkpoint.stored_names, EMBEDDING_TENSOR: head},
    )


def _unused(checkpoint: Checkpoint, used: Collection[str], ignored: Sequence[str]) -> Iterator[str]:
    """Stored names of the tensors that change the result in some other model than this one."""
    for name in checkpoint.tensors:
        if name in used or why_meaningless(name) or any(re.search(pattern, name) for pattern in ignored):
            continue
        yield checkpoint.stored_names.get(name, name)


def _hint(name: str, source: ModelSource) -> str:
    """What the name of an unused tensor says about the model that it belongs to; may be empty."""
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    if layer and int(layer[1]) >= source.config.num_hidden_layers:
        return f" (config.json has num_hidden_layers {source.config.num_hidden_layers})"
    for pattern, key in ((r"self_attn\.\w+\.bias$", "attention_bias"), (r"mlp\.\w+\.bias$", "mlp_bias")):
        if re.search(pattern, name):
            return f" (config.json does not declare {key})"
    return ""


def _misfits(checkpoint: Checkpoint, parameters: Iterable[ParameterSpec]) -> Iterator[str]:
    """What is wrong with the tensors that the parameters come from."""
    for spec in parameters:
        if not isinstance(spec.origin, Origin):
            continue
        missing = [name for name in spec.tensors if name not in checkpoint.tensors]
        yield from (f"{name} is missing" for name in missing)
        if missing:
            continue
        transform = spec.origin.transform
        shapes = transform.source_shapes(spec.origin.output, spec.full_shape)
        for source, types, shape in zip(spec.origin.sources, transform.source_types, shapes, strict=True):
            for tensor in dict.fromkeys(rows.tensor for rows in source):
                if checkpoint.tensors[tensor].dtype not in types:
                    yield f"{tensor} has type {checkpoint.tensors[tensor].dtype}, not {', '.join(types)}"
            if shape is not None:
                yield from _misshapen(source, shape, checkpoint.tensors)


def _misshapen(source: Source, shape: Shape, tensors: Mapping[str, StoredTensor]) -> Iterator[str]:
    """What is wrong with the shapes of the tensors of a source that must have `shape`."""
    if len(source) == 1 and source[0].is_whole:
        name = source[0].tensor
        if tensors[name].shape != shape:
            yield f"{name} has shape {list(tensors[name].shape)}, not {list(shape)}"
        return
    total, rest = 0, shape[1:]
    for rows in source:
        full = tensors[rows.tensor].shape
        number = 1 if rows.index is None else rows.index + 1
        matrix = full if rows.index is None else full[1:]
        needed = rows.first_row + (1 if rows.num_rows is None else rows.num_rows)
        if matrix[1:] != rest or not matrix or matrix[0] < needed or (rows.index is not None and full[0] < number):
            stack = [] if rows.index is None else [f">= {number}"]
            yield f"{rows.tensor} has shape {list(full)}, not [{', '.join([*stack, f'>= {needed}', *map(str, rest)])}]"
            return
        total += matrix[0] - rows.first_row if rows.num_rows is None else rows.num_rows
    if total != shape[0]:
        yield f"{list_some([rows.tensor for rows in source])} have {total} rows for {shape[0]}"


def check_tensors(checkpoint: Checkpoint, parameters: Iterable[ParameterSpec]) -> None:
    """Compare the checkpoint with what some parameters need.

    Raises:
        UserError: tensors are missing, of another shape, or of a type that is not 16- or 32-bit float; all listed.
    """
    problems = list(dict.fromkeys(_misfits(checkpoint, parameters)))
    if problems:
        raise _do_not_fit(checkpoint, problems)


def _do_not_fit(checkpoint: Checkpoint, problems: list[str]) -> UserError:
    return UserError(
        f"the tensors in {checkpoint.directory} do not fit its config.json:\n  " + list_some(problems, "\n  "),
        expected="the tensors of the architecture that config.json describes",
        fix="check that config.json and the weight files belong together",
    )
