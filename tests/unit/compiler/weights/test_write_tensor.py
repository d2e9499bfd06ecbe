"""A tensor's way into a rank's file equals the plain computation on the whole tensor, in many small blocks."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from vamc_compiler.packing import PAIRS, PANELS, QUADS, Packing
from vamc_compiler.parameters import Origin, ParameterDType, ParameterSpec, from_tensor
from vamc_compiler.sharding import Shard, lay_out_heads, shard_evenly, shard_units
from vamc_compiler.transforms import QUANT, SCALE, UNIT_ROWS, Int8Rows
from vamc_compiler.weights import shards as shards_module
from vamc_compiler.weights.shards import PlacedParameter, plan_tasks, write_tensors
from vamc_compiler.weights.stored_tensor import StoredTensor
from vamc_compiler.weights.transforms import normalize_rows, quantize_rows, row_scales
from vamc_runtime.errors import UserError

ROWS, COLUMNS = 42, 14  # 3 * 7 heads of 2, and 7 heads of 2: nothing is a multiple of anything useful
BEFORE, AFTER = 24, 40
"""Bytes around the destination that must stay as they are."""
STORED = from_tensor("t")
UNIT = from_tensor("t", transform=UNIT_ROWS)
INT8, INT8_SCALE, UNIT_INT8, UNIT_INT8_SCALE = (
    Origin(STORED.sources, None, transform, output)
    for transform in (Int8Rows(), Int8Rows(UNIT_ROWS))
    for output in (QUANT, SCALE)
)
ORIGINS = {
    "as stored": STORED,
    "unit rows": UNIT,
    "int8": INT8,
    "scales of int8": INT8_SCALE,
    "int8 of unit rows": UNIT_INT8,
    "scales of unit rows": UNIT_INT8_SCALE,
}


def packed_heads(rank: int, num_ranks: int) -> Shard:
    """W_pack of 7 heads: the rank's heads from each third."""
    heads = lay_out_heads(7, 7, num_ranks).query_heads(rank)
    units = [None if head is None else third * 7 + head for third in range(3) for head in heads]
    return shard_units(0, units, 2, full=ROWS)


SHARDS: dict[str, Shard | None] = {
    "replicated": None,
    "dim 0": shard_evenly(0, ROWS, 1, 3),
    "dim 0 padded": shard_evenly(0, ROWS, 3, 4),
    "dim 0 only padding": shard_evenly(0, ROWS, 40, 41),
    "dim 1": shard_evenly(1, COLUMNS, 1, 2),
    "dim 1 padded": shard_evenly(1, COLUMNS, 2, 3),
    "dim 1 heads": shard_units(1, [6, None, 0, 1, None], 2, full=COLUMNS),
    "W_pack thirds": packed_heads(0, 2),
    "W_pack thirds padded": packed_heads(2, 3),
}


PACKINGS: dict[str, Packing] = {"float16": PANELS, "bfloat16": PAIRS, "int8": QUADS}


def from_bfloat16(patterns: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    return (patterns.astype(np.uint32) << 16).view(np.float32)


def store(path: Path, values: torch.Tensor, dtype: str) -> StoredTensor:
    """A file that holds a tensor between other bytes."""
    raw = values.to(getattr(torch, dtype)).contiguous().view(torch.uint8).numpy().tobytes()
    path.write_bytes(b"\x7f" * 13 + raw + b"\x7f" * 5)
    return StoredTensor(path, 13, tuple(values.shape), dtype)


def write(
    folder: Path,
    source: StoredTensor,
    shard: Shard | None,
    origin: Origin,
    dtype: ParameterDType,
    packing: Packing | None = None,
) -> npt.NDArray[np.generic]:
    """Run the task and read its result; the bytes around it must be untouched."""
    shape = source.shape if shard is None else shard.local_shape(source.shape)
    if origin.is_per_row:
        shape = shape[:1]
    stored_shape = shape if packing is None else packing.packed_shape(shape)
    stored_type = np.dtype("uint16" if dtype == "bfloat16" else dtype)
    num_bytes = int(np.prod(stored_shape)) * stored_type.itemsize
    path = folder / "rank.bin"
    path.write_bytes(b"\xee" * (BEFORE + num_bytes + AFTER))
    spec = ParameterSpec("x", shape, dtype, replace(origin, shard=shard))
    (task,) = plan_tasks([PlacedParameter(spec, path, BEFORE, packing)], {"t": source})
    assert write_tensors(task) == task.num_elements == int(np.prod(shape))
    content = path.read_bytes()
    assert len(content) == BEFORE + num_bytes + AFTER
    assert content[:BEFORE] == b"\xee" * BEFORE
    assert content[BEFORE + num_bytes :] == b"\xee" * AFTER
    return np.frombuffer(content[BEFORE : BEFORE + num_bytes], stored_type).reshape(stored_shape)


def part_of(values: torch.Tensor, shard: Shard | None) -> torch.Tensor:
    """The rank's part, element by element."""
    if shard is None:
        return values
    lines = []
    for piece in shard.pieces:
        for i in range(piece.length):
            line = values.select(shard.dim, 0 if piece.start is None else piece.start + i)
            lines.append(torch.zeros_like(line) if piece.start is None else line)
    return torch.stack(lines, shard.dim)


def torch_scales(values: torch.Tensor) -> torch.Tensor:
    largest = values.abs().amax(1)
    return torch.where(largest > 0, largest / 127, torch.ones_like(largest))


def reference(values: torch.Tensor, shard: Shard | None, origin: Origin) -> torch.Tensor:
    """What a rank stores, before packing: float64 or int8. Everything per row happens on the full rows."""
    rows = values.float()
    if origin in (UNIT, UNIT_INT8, UNIT_INT8_SCALE):
        rows = torch.nn.functional.normalize(rows.double(), dim=1).float()
    scales = torch_scales(rows)
    if origin.is_per_row:
        # A padded row's scale is that of a row of zeros; a split of the columns changes no scale.
        padded = part_of(scales, shard) if shard is not None and shard.dim == 0 else scales
        return torch.where(padded > 0, padded, torch.ones_like(padded)).double()
    if origin in (INT8, UNIT_INT8):
        return part_of((rows / scales[:, None]).round().clamp(-127, 127).to(torch.int8), shard)
    return part_of(rows, shard).double()


def random_tensor(*shape: int) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
    values[5] = 0
    if len(shape) == 2:
        values[7, 0] = 60.0  # a scale that only the first columns give
        values[8] *= 1e-3
    return values


@pytest.mark.parametrize("block_bytes", [1, 4 * COLUMNS * 16, 4 * COLUMNS * 20, 32 << 20])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("origin", ORIGINS.values(), ids=ORIGINS)
def test_every_rule_and_transform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: Origin, dtype: str, block_bytes: int
) -> None:
    monkeypatch.setattr(shards_module, "BLOCK_BYTES", block_bytes)
    values = random_tensor(ROWS, COLUMNS)
    source = store(tmp_path / "source.bin", values, dtype)
    exact = values.to(getattr(torch, dtype))
    targets: tuple[ParameterDType, ...] = ("float16", "bfloat16", "float32")
    if origin in (INT8, UNIT_INT8):
        targets = ("int8",)
    elif origin.is_per_row:
        targets = ("float32",)
    for name, shard in SHARDS.items():
        for target in targets:
            expected = reference(exact, shard, origin).numpy()
            stored = write(tmp_path, source, shard, origin, target)
            found: npt.NDArray[Any] = from_bfloat16(stored) if target == "bfloat16" else stored
            if origin == STORED and target == "bfloat16":
                rounded = part_of(exact, shard).to(torch.bfloat16).float().numpy()
                np.testing.assert_array_equal(found, rounded, err_msg=name)
            elif origin in (STORED, INT8, INT8_SCALE):
                np.testing.assert_array_equal(found, expected.astype(target), err_msg=name)
            elif target == "int8":  # normalising in another order may move a value across a tie
                assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1, name
                assert (found == expected).mean() > 0.99, name
            else:
                precision = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-22}[target]
                np.testing.assert_allclose(found, expected, rtol=precision, atol=1e-7, err_msg=name)
            packing = PACKINGS.get(target)
            if packing is not None and not origin.is_per_row:
                packed = write(tmp_path, source, shard, origin, target, packing)
                np.testing.assert_array_equal(packed, packing.pack(stored), err_msg=name)


@pytest.mark.parametrize("block_bytes", [1, 12, 1 << 20])
@pytest.mark.parametrize("shard", [None, shard_evenly(0, 30, 1, 4), shard_evenly(0, 30, 3, 4)], ids=str)
def test_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: Shard | None, block_bytes: int) -> None:
    monkeypatch.setattr(shards_module, "BLOCK_BYTES", block_bytes)
    values = random_tensor(30)
    source = store(tmp_path / "source.bin", values, "float32")
    found = write(tmp_path, source, shard, STORED, "float32")
    np.testing.assert_array_equal(found, part_of(values, shard).numpy())


@pytest.mark.parametrize("dim", [0, 1])
def test_the_scale_is_that_of_the_full_row(tmp_path: Path, dim: int) -> None:
    """Over the ranks, scales and quantized values are those of tp 1."""
    values = random_tensor(ROWS, COLUMNS)
    source = store(tmp_path / "source.bin", values, "float32")
    scales = write(tmp_path, source, None, INT8_SCALE, "float32")
    whole = write(tmp_path, source, None, INT8, "int8")
    for rank in range(2):
        shard = shard_evenly(dim, values.shape[dim], rank, 2)
        mine = write(tmp_path, source, shard, INT8_SCALE, "float32")
        np.testing.assert_array_equal(mine, np.split(scales, 2)[rank] if dim == 0 else scales)
        quantized = write(tmp_path, source, shard, INT8, "int8")
        np.testing.assert_array_equal(quantized, np.split(whole, 2, dim)[rank])


def test_normalising_sees_the_full_row_before_a_split_of_the_hidden_dimension(tmp_path: Path) -> None:
    values = random_tensor(ROWS, COLUMNS)
    source = store(tmp_path / "source.bin", values, "float32")
    parts = [write(tmp_path, source, shard_evenly(1, COLUMNS, rank, 2), UNIT, "float32") for rank in range(2)]
    norms = np.linalg.norm(np.concatenate(parts, 1).astype(np.float64), axis=1)
    np.testing.assert_allclose(np.delete(norms, 5), 1, rtol=1e-6)
    assert norms[5] == 0  # a row of zeros stays one
    assert np.linalg.norm(parts[0], axis=1).max() < 1 - 1e-4, "a part alone is shorter than its row"


def test_rows_of_zeros_have_scale_one(tmp_path: Path) -> None:
    source = store(tmp_path / "source.bin", torch.zeros(3, 4), "float16")
    np.testing.assert_array_equal(write(tmp_path, source, None, INT8_SCALE, "float32"), np.ones(3))
    np.testing.assert_array_equal(write(tmp_path, source, None, INT8, "int8"), np.zeros((3, 4)))


def test_ties_go_to_the_even_number() -> None:
    rows = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127]], np.float32)
    assert row_scales(rows).tolist() == [1.0]
    assert quantize_rows(rows, row_scales(rows)).tolist() == [[127, 0, 2, 2, 0, -2, -2, -127]]


def test_quantizing_equals_torch_bit_by_bit() -> None:
    rng = np.random.default_rng(0)
    for magnitude in (1e-38, 1e-6, 1.0, 6e4, 1e37):
        rows = (rng.standard_normal((64, 33)) * magnitude).astype(np.float32)
        rows[3] = 0
        scales = row_scales(rows)
        np.testing.assert_array_equal(scales, torch_scales(torch.from_numpy(rows)).numpy())
        divided = torch.from_numpy(rows) / torch.from_numpy(scales)[:, None]
        expected = torch.clamp(torch.round(divided), -127, 127).to(torch.int8)
        np.testing.assert_array_equal(quantize_rows(rows, scales), expected.numpy())


def test_the_smallest_rows_quantize_without_dividing_by_zero() -> None:
    rows = np.array([[1e-45, 0.0, -1e-45]], np.float32)  # max / 127 is zero in float32
    scales = row_scales(rows)
    assert scales[0] > 0
    with np.errstate(all="raise", under="ignore"):
        assert np.abs(quantize_rows(rows, scales) * scales[:, None] - rows).max() < 1e-44


def test_normalising_equals_torch() -> None:
    rows = np.random.default_rng(1).standard_normal((20, 300)).astype(np.float32)
    rows[4], rows[5] = 0, 1e-20
    expected = torch.nn.functional.normalize(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(normalize_rows(rows), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "origin", "dtype"),
    [
        (65520.0, STORED, "float16"),
        (-1e30, STORED, "float16"),
        (float("inf"), STORED, "float32"),
        (3.4e38, STORED, "bfloat16"),
        (float("-inf"), STORED, "bfloat16"),
        (float("nan"), STORED, "bfloat16"),
        (float("nan"), UNIT, "bfloat16"),
        (float("nan"), STORED, "float16"),
        (float("nan"), STORED, "float32"),
        (float("nan"), UNIT, "float16"),
        (float("inf"), UNIT, "float16"),
        (float("nan"), INT8, "int8"),
        (float("inf"), INT8, "int8"),
        (float("nan"), INT8_SCALE, "float32"),
        (float("inf"), INT8_SCALE, "float32"),
        (float("nan"), UNIT_INT8, "int8"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_values_that_cannot_be_stored_are_refused(
    tmp_path: Path, value: float, origin: Origin, dtype: ParameterDType
) -> None:
    values = random_tensor(ROWS, COLUMNS)
    values[40, 3] = value
    source = store(tmp_path / "source.bin", values, "float32")
    with pytest.raises(UserError, match=r"tensor t in .*source\.bin has values that") as caught:
        write(tmp_path, source, None, origin, dtype)
    assert f"that {dtype} cannot hold" in caught.value.found
    assert "finite values" in caught.value.expected


def test_the_largest_half_is_stored(tmp_path: Path) -> None:
    source = store(tmp_path / "source.bin", torch.tensor([[65504.0, 65519.0, 2**-24, 2**-26]]), "float32")
    found = write(tmp_path, source, None, STORED, "float16")
    assert found.tolist() == [[65504.0, 65504.0, 2**-24, 0.0]]


def test_bfloat16_is_rounded_as_torch_does(tmp_path: Path) -> None:
    """Ties go to the even number, the smallest numbers stay, and 70000, which no half can hold, is stored."""
    ties = 1 + torch.arange(64) * 2.0**-9
    values = torch.cat((ties, -ties, torch.tensor([0.0, -0.0, 7e4, 3.38e38, 1e-38, 1e-40, 9.2e-41, -1e-45])))
    source = store(tmp_path / "source.bin", values[None].contiguous(), "float32")
    found = write(tmp_path, source, None, STORED, "bfloat16")
    expected = values[None].to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(found, expected)


def test_no_nan_becomes_a_number(tmp_path: Path) -> None:
    """Rounding adds to the bits: those of some NaN would turn over to zero."""
    for pattern in (0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF80FFFF):
        nan = torch.from_numpy(np.full((1, 2), pattern, np.uint32).view(np.float32))
        with pytest.raises(UserError, match="that bfloat16 cannot hold"):
            write(tmp_path, store(tmp_path / "source.bin", nan, "float32"), None, STORED, "bfloat16")


def test_a_checkpoint_that_shrinks_meanwhile_is_noticed(tmp_path: Path) -> None:
    source = store(tmp_path / "source.bin", random_tensor(ROWS, COLUMNS), "float32")
    os.truncate(source.path, source.path.stat().st_size - 6)
    with pytest.raises(UserError, match=r"source\.bin became shorter while it was read"):
        write(tmp_path, source, None, STORED, "float16")


def test_memory_is_bounded_by_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "BLOCK_BYTES", 4 * COLUMNS * 4)
    largest = 0
    real = os.pread

    def pread(descriptor: int, num_bytes: int, offset: int) -> bytes:
        nonlocal largest
        largest = max(largest, num_bytes)
        return real(descriptor, num_bytes, offset)

    monkeypatch.setattr(os, "pread", pread)
    source = store(tmp_path / "source.bin", random_tensor(ROWS, COLUMNS), "float32")
    write(tmp_path, source, SHARDS["dim 1"], INT8, "int8")
    assert largest == 4 * COLUMNS * 4


def test_worker_processes_need_no_torch() -> None:
    code = "import sys, vamc_compiler.weights.writer; sys.exit('torch' in sys.modules or 'tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
