"""A rank's weight file: aligned, without holes, and the same whoever writes it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from vamc_compiler import workers
from vamc_compiler.packing import PANELS, QUADS, Packing
from vamc_compiler.parameters import FromValue, Origin, ParameterSpec, TensorRows, from_tensor
from vamc_compiler.sharding import Shard, shard_evenly
from vamc_compiler.transforms import QUANT, SCALE, UNIT_ROWS, Int8Rows
from vamc_compiler.weights import writer
from vamc_compiler.weights.checkpoint import Checkpoint, open_checkpoint
from vamc_compiler.weights.fit import check_tensors
from vamc_compiler.weights.safetensors_file import ALIGNMENT_BYTES, ITEM_BYTES, plan_file
from vamc_compiler.weights.stored_tensor import StoredTensor
from vamc_compiler.weights.writer import (
    RankFile,
    plan_rank_file,
    write_rank_files,
)
from vamc_runtime.errors import UserError

NUM_RANKS = 2
SLOPES = np.array([0.5, 0.25, 0.125], np.float32)
PACKINGS: dict[str, Packing] = {"linear.weight": PANELS, "head.weight": PANELS, "linear.quant_w": QUADS}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    generator = torch.Generator().manual_seed(0)
    state = {
        "norm.weight": torch.randn(5, generator=generator),
        "linear.weight": torch.randn(37, 5, generator=generator).half(),
        "head.weight": torch.randn(21, 5, generator=generator).bfloat16(),
    }
    save_file(state, directory / "model.safetensors")
    return open_checkpoint(directory)


def int8(tensor: str, output: str, shard: Shard | None = None) -> Origin:
    return Origin(((TensorRows(tensor),),), shard, Int8Rows(), output)


def parameters(rank: int) -> list[ParameterSpec]:
    rows, columns = shard_evenly(0, 21, rank, NUM_RANKS), shard_evenly(1, 5, rank, NUM_RANKS)
    return [
        ParameterSpec("norm.weight", (5,), "float32", from_tensor("norm.weight")),
        ParameterSpec("linear.weight", (37, 5), "float16", from_tensor("linear.weight")),
        ParameterSpec("linear.quant_w", (37, 3), "int8", int8("linear.weight", QUANT, columns)),
        ParameterSpec("linear.scale_w", (37,), "float32", int8("linear.weight", SCALE, columns)),
        ParameterSpec("slopes", (3,), "float32", FromValue(SLOPES * (rank + 1))),
        ParameterSpec("head.weight", (11, 5), "float16", from_tensor("head.weight", rows, UNIT_ROWS)),
    ]


def plan_files(folder: Path) -> list[RankFile]:
    return [
        plan_rank_file(folder / f"rank_{rank}" / "params.safetensors", parameters(rank), PACKINGS, {"rank": str(rank)})
        for rank in range(NUM_RANKS)
    ]


def write(folder: Path, checkpoint: Checkpoint, num_workers: int = 1) -> tuple[list[RankFile], list[tuple[int, int]]]:
    files, progress = plan_files(folder), []

    def on_progress(done: int, total: int) -> None:
        progress.append((done, total))

    write_rank_files(files, checkpoint, num_workers=num_workers, on_progress=on_progress)
    return files, progress


def test_round_trip(tmp_path: Path, checkpoint: Checkpoint) -> None:
    files, _ = write(tmp_path, checkpoint)
    with safe_open(checkpoint.directory / "model.safetensors", "pt") as source:
        linear = source.get_tensor("linear.weight").float()
        head = source.get_tensor("head.weight").float()
        norm = source.get_tensor("norm.weight")
    scales = linear.abs().amax(1) / 127
    quantized = (linear / scales[:, None]).round().to(torch.int8).numpy()
    unit = torch.nn.functional.normalize(head).half().numpy()
    for rank, file in enumerate(files):
        assert file.path.stat().st_size == file.plan.num_bytes
        with safe_open(file.path, "np") as stored:
            assert stored.metadata() == {"rank": str(rank)}
            names = [name for name in stored.keys() if not name.startswith("__pad_")]  # noqa: SIM118 (no mapping)
            assert set(names) == {spec.name for spec in parameters(rank)}
            expected = {
                "norm.weight": norm.numpy(),
                "linear.weight": PANELS.pack(linear.half().numpy()),
                "linear.quant_w": QUADS.pack([quantized[:, :3], np.pad(quantized[:, 3:], ((0, 0), (0, 1)))][rank]),
                "linear.scale_w": scales.numpy(),
                "slopes": SLOPES * (rank + 1),
                "head.weight": PANELS.pack([unit[:11], np.pad(unit[11:], ((0, 1), (0, 0)))][rank]),
            }
            for name in names:
                found = stored.get_tensor(name)
                assert found.dtype == expected[name].dtype
                np.testing.assert_array_equal(found, expected[name], err_msg=name)


def test_several_workers_write_the_same_bytes(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, progress = write(tmp_path / "alone", checkpoint)
    monkeypatch.setattr(writer, "SMALL_JOB_ELEMENTS", 0)
    started: list[int] = []
    real_pool = vars(workers)["ProcessPoolExecutor"]

    def noting(num_workers: int, **options: Any) -> Any:
        started.append(num_workers)
        return real_pool(num_workers, **options)

    monkeypatch.setattr(workers, "ProcessPoolExecutor", noting)
    together, progress_together = write(tmp_path / "together", checkpoint, num_workers=2)
    assert started == [2]
    for one, other in zip(alone, together, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
    assert sorted(total for _, total in progress_together) == sorted(total for _, total in progress)


def test_progress_rises_to_the_total(tmp_path: Path, checkpoint: Checkpoint) -> None:
    _, progress = write(tmp_path, checkpoint)
    total = NUM_RANKS * (5 + 37 * 5 + 37 * 3 + 37 + 11 * 5)
    assert {total for _, total in progress} == {total}
    done = [done for done, _ in progress]
    assert done == sorted(set(done))
    assert progress[-1] == (total, total)


@given(
    tensors=st.lists(
        st.tuples(st.lists(st.integers(0, 9), max_size=3).map(tuple), st.sampled_from(sorted(ITEM_BYTES))),
        max_size=8,
    )
)
def test_layout_is_aligned_and_without_holes(tensors: list[tuple[tuple[int, ...], str]]) -> None:
    plan = plan_file([(f"t{i}", shape, dtype) for i, (shape, dtype) in enumerate(tensors)], {"k": "v"})
    length = int.from_bytes(plan.header[:8], "little")
    assert len(plan.header) == 8 + length and len(plan.header) % ALIGNMENT_BYTES == 0
    header = json.loads(plan.header[8:])
    assert header.pop("__metadata__") == {"k": "v"}
    position = 0
    for entry in header.values():  # in file order: each begins where the one before ends
        begin, end = entry["data_offsets"]
        assert begin == position
        position = end
    assert len(plan.header) + position == plan.num_bytes
    assert plan.num_bytes % ALIGNMENT_BYTES == 0
    for name, entry in plan.entries.items():
        assert entry.offset % ALIGNMENT_BYTES == 0
        begin, end = header[name]["data_offsets"]
        assert (entry.offset, entry.num_bytes) == (len(plan.header) + begin, end - begin)


def test_a_full_disk_shows_before_the_work(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def never(task: object) -> int:
        raise AssertionError("no tensor is read when the space is not there")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(writer, "write_tensors", never)
    with pytest.raises(OSError) as caught:
        write(tmp_path, checkpoint)
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_that_fills_up_meanwhile(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.pwrite, []

    def filling(descriptor: int, data: memoryview, offset: int) -> int:
        calls.append(offset)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", filling)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError) as caught:
        write(tmp_path, checkpoint)
    assert caught.value.errno == errno.ENOSPC
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "files are closed"


def test_short_writes_are_continued(tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = write(tmp_path / "whole", checkpoint)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:7], offset))
    pieces, _ = write(tmp_path / "pieces", checkpoint)
    for one, other in zip(whole, pieces, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


def replace_tensor(checkpoint: Checkpoint, name: str, tensor: StoredTensor | None) -> Checkpoint:
    tensors: Mapping[str, StoredTensor | None] = {**checkpoint.tensors, name: tensor}
    return Checkpoint(checkpoint.directory, {n: t for n, t in tensors.items() if t is not None})


def problems(checkpoint: Checkpoint, specs: list[ParameterSpec]) -> str:
    with pytest.raises(UserError) as caught:
        check_tensors(checkpoint, specs)
    return caught.value.found


def test_a_fitting_checkpoint_passes(checkpoint: Checkpoint) -> None:
    for rank in range(NUM_RANKS):
        check_tensors(checkpoint, parameters(rank))


@pytest.mark.parametrize("output", [QUANT, SCALE])
def test_a_quantized_layer_without_a_shard_rule_passes(checkpoint: Checkpoint, output: str) -> None:
    shape = (37, 5) if output == QUANT else (37,)
    check_tensors(checkpoint, [ParameterSpec("x", shape, "int8", int8("linear.weight", output))])


def test_all_problems_are_listed_once(checkpoint: Checkpoint) -> None:
    linear = checkpoint.tensors["linear.weight"]
    damaged = replace_tensor(checkpoint, "norm.weight", None)
    wrong = StoredTensor(linear.path, linear.offset, (5, 37), "I64")
    found = problems(replace_tensor(damaged, "linear.weight", wrong), parameters(0) + parameters(1))
    assert found.count("norm.weight is missing") == 1
    assert found.count("linear.weight has type I64, not float32, float16, bfloat16") == 1
    assert found.count("linear.weight has shape [5, 37], not [37, 5]") == 1
    assert "head.weight" not in found


@pytest.mark.parametrize("rank", range(NUM_RANKS))
def test_the_shape_is_compared_with_the_full_one(checkpoint: Checkpoint, rank: int) -> None:
    head = checkpoint.tensors["head.weight"]
    local = StoredTensor(head.path, head.offset, (11, 5), head.dtype)
    found = problems(replace_tensor(checkpoint, "head.weight", local), parameters(rank))
    assert "head.weight has shape [11, 5], not [21, 5]" in found


def test_long_lists_are_cut(checkpoint: Checkpoint) -> None:
    specs = [ParameterSpec(f"p{i}", (1,), "float16", from_tensor(f"t{i}")) for i in range(11)]
    found = problems(checkpoint, specs)
    assert found.count("is missing") == 8 and "... and 3 more" in found
