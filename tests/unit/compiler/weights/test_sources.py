"""Parameters made of parts of tensors, of several tensors, of stacks, of packed words; one read for the same rows."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

from vamc_compiler.parameters import Origin, ParameterSpec, Source, TensorRows, from_tensor
from vamc_compiler.sharding import Shard, shard_evenly
from vamc_compiler.transforms import FLOAT_TYPES, QUANT, SCALE, WEIGHT, Int8Rows, Shape
from vamc_compiler.verify import expected_weights
from vamc_compiler.verify.expected_weights import expected_rows
from vamc_compiler.verify.stored_weights import matrix_shape
from vamc_compiler.weights import shards, transforms
from vamc_compiler.weights.checkpoint import Checkpoint, open_checkpoint
from vamc_compiler.weights.fit import check_tensors
from vamc_compiler.weights.shards import PlacedParameter, plan_tasks, read_parameter, write_tensors
from vamc_runtime.errors import UserError

Array = npt.NDArray[Any]


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "q": torch.randn(6, 10, generator=generator),
        "k": torch.randn(3, 10, generator=generator),
        "experts": torch.randn(4, 7, 10, generator=generator),
        "words": torch.randint(-(2**31), 2**31 - 1, (5, 3), dtype=torch.int32, generator=generator),
        "scales": torch.rand(5, 6, generator=generator),
    }


@pytest.fixture
def checkpoint(tmp_path: Path, state: dict[str, torch.Tensor]) -> Checkpoint:
    save_file({name: state[name] for name in ("q", "experts", "words")}, tmp_path / "model-1.safetensors")
    save_file({name: state[name] for name in ("k", "scales")}, tmp_path / "model-2.safetensors")
    index = {name: f"model-{1 + (name in ('k', 'scales'))}.safetensors" for name in state}
    (tmp_path / "model.safetensors.index.json").write_text(repr({"weight_map": index}).replace("'", '"'))
    return open_checkpoint(tmp_path)


SOURCES: dict[str, tuple[Source, tuple[int, ...]]] = {
    "one below the other": ((TensorRows("q"), TensorRows("k")), (9, 10)),
    "rows of a fused tensor": ((TensorRows("q", first_row=2, num_rows=3),), (3, 10)),
    "the last rows": ((TensorRows("q", first_row=4),), (2, 10)),
    "two ranges in another order": ((TensorRows("q", None, 4, 2), TensorRows("q", None, 0, 2)), (4, 10)),
    "one expert": ((TensorRows("experts", index=2),), (7, 10)),
    "rows of two experts": ((TensorRows("experts", 3, 5, 2), TensorRows("experts", 0, 0, 1)), (3, 10)),
}


def whole(source: Source, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    parts = []
    for rows in source:
        tensor = state[rows.tensor] if rows.index is None else state[rows.tensor][rows.index]
        parts.append(tensor[rows.first_row :][: rows.num_rows])
    return torch.cat(parts)


@pytest.mark.parametrize("block_bytes", [1, 4 * 10 * 2, 1 << 20])
@pytest.mark.parametrize("split", [None, 0, 1])
@pytest.mark.parametrize(("source", "shape"), SOURCES.values(), ids=SOURCES)
def test_sources_give_their_rows(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Checkpoint,
    state: dict[str, torch.Tensor],
    source: Source,
    shape: tuple[int, int],
    split: int | None,
    block_bytes: int,
) -> None:
    monkeypatch.setattr(shards, "BLOCK_BYTES", block_bytes)
    full = whole(source, state).numpy()
    assert full.shape == shape
    for rank in range(1 if split is None else 2):
        shard = None if split is None else shard_evenly(split, shape[split], rank, 2)
        local = shape if shard is None else shard.local_shape(shape)
        spec = ParameterSpec("x", local, "float32", Origin((source,), shard))
        check_tensors(checkpoint, [spec])
        expected = full
        if split is not None:
            size = -(-shape[split] // 2)
            padding = [(0, 2 * size - length if dim == split else 0) for dim, length in enumerate(shape)]
            expected = np.split(np.pad(full, padding), 2, split)[rank]
        np.testing.assert_array_equal(read_parameter(spec, checkpoint.tensors), expected)
        checked = expected_rows(spec, checkpoint.tensors)
        assert checked.shape == matrix_shape(spec.shape)
        np.testing.assert_array_equal(checked.block(0, len(expected)).bits.view(np.float32), expected)


@pytest.mark.parametrize(
    ("source", "shape", "problem"),
    [
        ((TensorRows("q"), TensorRows("k")), (10, 10), "q, k have 9 rows for 10"),
        ((TensorRows("q"), TensorRows("scales")), (11, 10), "scales has shape [5, 6], not [>= 1, 10]"),
        ((TensorRows("q", first_row=5, num_rows=2),), (2, 10), "q has shape [6, 10], not [>= 7, 10]"),
        ((TensorRows("experts", index=4),), (7, 10), "experts has shape [4, 7, 10], not [>= 5, >= 1, 10]"),
        ((TensorRows("experts", 0, 6, 2),), (2, 10), "experts has shape [4, 7, 10], not [>= 1, >= 8, 10]"),
        ((TensorRows("q", index=0),), (6, 10), "q has shape [6, 10], not [>= 1, >= 1, 10]"),
        ((TensorRows("words"),), (5, 3), "words has type int32, not float32, float16, bfloat16"),
        ((TensorRows("q"), TensorRows("gone")), (6, 10), "gone is missing"),
    ],
)
def test_sources_that_do_not_fit(checkpoint: Checkpoint, source: Source, shape: tuple[int, ...], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        check_tensors(checkpoint, [ParameterSpec("x", shape, "float32", Origin((source,)))])
    assert problem in str(caught.value)


@dataclass(frozen=True)
class Nibbles:
    """Words of eight 4-bit numbers with a scale for each four of them: packed weights of two sources, of this test."""

    outputs = (WEIGHT,)
    per_row = frozenset[str]()
    source_types = (("int32",), FLOAT_TYPES)

    def source_shapes(self, output: str, shape: Shape) -> tuple[Shape | None, ...]:
        return (shape[0], shape[1] // 8), (shape[0], shape[1] // 4)


def unpack(words: Array) -> Array:
    return np.stack([words >> shift & 15 for shift in range(0, 32, 4)], -1).reshape(len(words), -1) - 8


@pytest.fixture
def nibbles(monkeypatch: pytest.MonkeyPatch) -> Nibbles:
    """Known to both sides, as a transform of its own would be."""

    def write(transform: Nibbles, sources: Sequence[Array], wanted: Collection[str]) -> Mapping[str, Array]:
        return {WEIGHT: (unpack(sources[0]) * np.repeat(sources[1], 4, 1)).astype(np.float32)}

    def expect(transform: Nibbles, sources: Sequence[Array], output: str) -> expected_weights.Values:
        return expected_weights.Values((np.repeat(sources[1], 4, 1) * unpack(sources[0])).astype(np.float32))

    transforms.carry_out.register(Nibbles, write)
    expected_weights.expect.register(Nibbles, expect)
    expected_weights.num_columns.register(Nibbles, lambda transform, sources: 8 * sources[0].num_columns)
    return Nibbles()


@pytest.mark.parametrize("split", [None, 0, 1])
def test_packed_words_with_their_scales(
    checkpoint: Checkpoint, state: dict[str, torch.Tensor], nibbles: Nibbles, split: int | None
) -> None:
    words, scales = state["words"].numpy(), state["scales"].numpy()
    full = ((words[:, :, None] >> np.arange(0, 32, 4)) % 16 - 8).reshape(5, 24) * scales.repeat(4, axis=1)
    shard = None if split is None else shard_evenly(split, full.shape[split], 1, 2)
    shape = full.shape if shard is None else shard.local_shape(full.shape)
    origin = Origin(((TensorRows("words"),), (TensorRows("scales"),)), shard, nibbles)
    spec = ParameterSpec("x", shape, "float32", origin)
    check_tensors(checkpoint, [spec])
    expected = {None: full, 0: np.pad(full, ((0, 1), (0, 0)))[3:], 1: full[:, 12:]}[split].astype(np.float32)
    np.testing.assert_array_equal(read_parameter(spec, checkpoint.tensors), expected)
    np.testing.assert_array_equal(expected_rows(spec, checkpoint.tensors).block(0, 5).bits.view(np.float32), expected)


def placed(folder: Path, name: str, shape: tuple[int, ...], dtype: Any, origin: Origin) -> PlacedParameter:
    path = folder / f"{name}.bin"
    path.write_bytes(bytes(4 * int(np.prod(shape))))
    return PlacedParameter(ParameterSpec(name, shape, dtype, origin), path, 0, None)


def test_one_read_serves_all_parameters_of_the_same_rows(
    tmp_path: Path, checkpoint: Checkpoint, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row-parallel int8 layer on two ranks is four parameters, and a norm on two ranks two: two reads."""
    halves: list[Shard] = [shard_evenly(1, 10, rank, 2) for rank in range(2)]
    source = (TensorRows("q"),)
    parameters = [
        placed(tmp_path, f"{output}{rank}", (6, 5) if output == QUANT else (6,), dtype, Origin(
            (source,), halves[rank], Int8Rows(), output
        ))
        for rank in range(2)
        for output, dtype in ((QUANT, "int8"), (SCALE, "float32"))
    ]  # fmt: skip
    parameters += [placed(tmp_path, f"k{rank}", (3, 10), "float32", from_tensor("k")) for rank in range(2)]
    tasks = plan_tasks(parameters, checkpoint.tensors)
    assert [len(task.destinations) for task in tasks] == [4, 2]
    reads: list[int] = []
    real = os.pread

    def pread(descriptor: int, num_bytes: int, offset: int) -> bytes:
        reads.append(num_bytes)
        return real(descriptor, num_bytes, offset)

    monkeypatch.setattr(os, "pread", pread)
    assert sum(map(write_tensors, tasks)) == 2 * (30 + 6) + 2 * 30
    assert reads == [6 * 10 * 4, 3 * 10 * 4]
    rows = state["q"].numpy()
    scales = (np.abs(rows).max(1) / np.float32(127)).astype(np.float32)
    quantized = np.rint(rows / scales[:, None]).astype(np.int8)
    for rank in range(2):
        quant = np.frombuffer((tmp_path / f"quant{rank}.bin").read_bytes()[:30], np.int8).reshape(6, 5)
        np.testing.assert_array_equal(quant, quantized[:, 5 * rank : 5 * rank + 5])
        np.testing.assert_array_equal(np.frombuffer((tmp_path / f"scale{rank}.bin").read_bytes(), np.float32), scales)
        np.testing.assert_array_equal(
            np.frombuffer((tmp_path / f"k{rank}.bin").read_bytes(), np.float32), state["k"].numpy().reshape(-1)
        )


def test_a_transform_that_one_side_does_not_know() -> None:
    unknown: Any = object()
    with pytest.raises(NotImplementedError, match=r"weights/transforms\.py does not know object"):
        transforms.carry_out(unknown, [], (WEIGHT,))
    with pytest.raises(NotImplementedError, match=r"verify/expected_weights\.py does not know object"):
        expected_weights.expect(unknown, [], WEIGHT)
