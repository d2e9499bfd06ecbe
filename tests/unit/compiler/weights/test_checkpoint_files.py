"""Every published form of a checkpoint is indexed right; whatever is wrong with one is said, and no code is run."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from stored_bytes import assert_holds, message

from vamc_compiler.weights.checkpoint import digest_checkpoint, open_checkpoint

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 5), (7,), (2, 3, 4), (1, 1))
    return {
        f"layer.{i}.{str(dtype)[6:]}": torch.randn(shape, generator=generator).to(dtype)
        for i, shape in enumerate(shapes)
        for dtype in DTYPES
    }


def halves(state: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    names = list(state)
    return [{name: state[name] for name in names[i::2]} for i in range(2)]


def write_index(directory: Path, name: str, parts: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    weight_map = {tensor: file for file, part in parts.items() for tensor in part}
    (directory / name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def test_single_bin(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "pytorch_model.bin")
    assert_holds(open_checkpoint(tmp_path), tensors())


def test_bin_shards_with_index(tmp_path: Path) -> None:
    parts = {f"pytorch_model-{i:05}-of-00002.bin": part for i, part in enumerate(halves(tensors()), 1)}
    for file, part in parts.items():
        torch.save(part, tmp_path / file)
    write_index(tmp_path, "pytorch_model.bin.index.json", parts)
    checkpoint = open_checkpoint(tmp_path)
    assert_holds(checkpoint, tensors())
    assert [path.name for path in checkpoint.files] == sorted(parts)


def test_single_safetensors(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors", {"format": "pt"})
    assert_holds(open_checkpoint(tmp_path), tensors())


def test_indexed_safetensors(tmp_path: Path) -> None:
    parts = {f"model-{i:05}-of-00002.safetensors": part for i, part in enumerate(halves(tensors()), 1)}
    for file, part in parts.items():
        save_file(part, tmp_path / file)
    write_index(tmp_path, "model.safetensors.index.json", parts)
    assert_holds(open_checkpoint(tmp_path), tensors())


def test_safetensors_are_preferred_to_pickles(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    assert set(open_checkpoint(tmp_path).tensors) == {"a"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_and_shared_storages(tmp_path: Path, dtype: torch.dtype) -> None:
    base = torch.arange(60).to(dtype).reshape(10, 6)
    state = {
        "first": base[:2],
        "middle": base[3:7],
        "row": base[9],
        "flat": base.view(-1)[7:11],
        "tied": base,
        "again": base,
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path)
    assert_holds(checkpoint, state)
    assert checkpoint.tensors["tied"] == checkpoint.tensors["again"]
    assert checkpoint.tensors["middle"].offset == checkpoint.tensors["tied"].offset + 3 * 6 * dtype.itemsize


def test_parameters_of_a_module(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    torch.save(layer.state_dict(), tmp_path / "pytorch_model.bin")
    assert_holds(open_checkpoint(tmp_path), layer.state_dict())
    torch.save(dict(layer.named_parameters()), tmp_path / "pytorch_model.bin")
    assert_holds(open_checkpoint(tmp_path), layer.state_dict())


def test_other_types_are_indexed_for_the_error_to_come(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.int64)}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).tensors["a"].dtype == "I64"
    (tmp_path / "model.safetensors").unlink()
    torch.save({"a": torch.ones(2, dtype=torch.int64)}, tmp_path / "pytorch_model.bin")
    assert open_checkpoint(tmp_path).tensors["a"].dtype == "int64"


def test_directory_without_weights(tmp_path: Path) -> None:
    assert "holds no weights" in message(tmp_path)
    assert f"{tmp_path / 'nowhere'} holds no weights" in message(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("llama-2-7b.Q4_K_M.gguf", "take the checkpoint for transformers"),
        ("consolidated.00.pth", "convert_llama_weights_to_hf"),
        ("model-00001-of-00002.safetensors", "download model.safetensors.index.json"),
        ("pytorch_model-00001-of-00002.bin", "download pytorch_model.bin.index.json"),
        ("weights.safetensors", "rename it"),
    ],
)
def test_weights_of_other_kinds_are_named(tmp_path: Path, name: str, fix: str) -> None:
    (tmp_path / name).write_bytes(b"")
    found = message(tmp_path)
    assert f"holds no weights, only {name}" in found and fix in found


@pytest.mark.parametrize("single", ["model.safetensors", "pytorch_model.bin"])
def test_file_missing_from_the_index(tmp_path: Path, single: str) -> None:
    part = {"a": torch.ones(2)}
    here, missing = f"1-{single}", f"2-{single}"
    if single.endswith(".bin"):
        torch.save(part, tmp_path / here)
    else:
        save_file(part, tmp_path / here)
    write_index(tmp_path, f"{single}.index.json", {here: part, missing: {"b": torch.ones(2)}})
    text = message(tmp_path)
    assert f"names weight files that are missing: {missing}\n" in text
    assert "all 2 files of the index" in text


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": ["a"]}'])
def test_index_without_a_weight_map(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    assert "has no 'weight_map'" in message(tmp_path)


def test_index_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert "model.safetensors.index.json cannot be read" in message(tmp_path)


@pytest.mark.parametrize("keep", [0, 2, 100, -1, -40])
def test_truncated_bin(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(tensors(), path)
    os.truncate(path, keep % path.stat().st_size)
    text = message(tmp_path)
    assert "pytorch_model.bin is damaged" in text and "download it again" in text


def test_bin_with_damage_inside(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(tensors(), path)
    content = bytearray(path.read_bytes())
    place = content.index(b"data.pkl") + 100
    content[place : place + 40] = b"\xff" * 40
    path.write_bytes(content)
    assert "pytorch_model.bin" in message(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 8, 30, -1])
def test_truncated_safetensors(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path)
    os.truncate(path, keep % path.stat().st_size)
    assert "model.safetensors is damaged" in message(tmp_path)


def test_truncated_safetensors_names_the_first_tensor_that_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"whole": torch.ones(2)}, path)
    size = path.stat().st_size
    os.truncate(path, size - 1)
    assert f"tensor 'whole' ends at byte {size} of {size - 1}: the file is cut off" in message(tmp_path)


def with_header(path: Path, header: object, data: bytes = b"\0" * 16) -> None:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


@pytest.mark.parametrize(
    "header",
    [
        b"{not json",
        b"\xff\xfe\x00",
        [],
        "text",
        {"a": 3},
        {"a": {}},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}},  # more elements than bytes
    ],
    ids=str,
)
def test_safetensors_header_that_is_garbage(tmp_path: Path, header: object) -> None:
    with_header(tmp_path / "model.safetensors", header)
    assert "model.safetensors is damaged" in message(tmp_path)


def test_safetensors_header_longer_than_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    assert "model.safetensors is damaged: it is not a safetensors file" in message(tmp_path)


class Bomb:
    """A pickle that creates a file when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("inside", ["instead", "beside"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, inside: str) -> None:
    bomb = Bomb(tmp_path / "executed")
    state = bomb if inside == "instead" else {"a": torch.ones(2), "b": bomb}
    torch.save(state, tmp_path / "pytorch_model.bin")
    text = message(tmp_path)
    assert not bomb.path.exists()
    assert "holds more than plain tensors: posix.mkdir" in text or "more than plain tensors: os.mkdir" in text
    pickle.loads(pickle.dumps(bomb))  # the bomb is live
    assert bomb.path.exists()


class Plain:
    """A class of the user's own."""


def test_a_pickled_class_is_named(tmp_path: Path) -> None:
    torch.save({"a": Plain()}, tmp_path / "pytorch_model.bin")
    assert f"more than plain tensors: {__name__}.Plain" in message(tmp_path)


def test_an_entry_that_is_no_tensor(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "step": 3}, tmp_path / "pytorch_model.bin")
    assert "entry 'step' is a int" in message(tmp_path)


def test_a_pickle_that_is_no_dictionary(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "pytorch_model.bin")
    assert "holds a list" in message(tmp_path)


def test_a_tensor_with_strides(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3, 2).t()}, tmp_path / "pytorch_model.bin")
    assert "tensor 'a' is stored with strides (1, 2)" in message(tmp_path)


def test_the_old_torch_format(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    text = message(tmp_path)
    assert "is in torch's old format" in text and "load and save it once with a current torch" in text


def test_indexing_reads_no_data(tmp_path: Path) -> None:
    """Offsets come from headers alone: a file of holes as large as a big model's is indexed at once."""
    num_bytes = 1 << 40
    with_header(
        tmp_path / "model.safetensors",
        {"a": {"dtype": "F16", "shape": [1 << 20, 1 << 19], "data_offsets": [0, num_bytes]}},
        b"",
    )
    path = tmp_path / "model.safetensors"
    os.truncate(path, path.stat().st_size + num_bytes)
    assert open_checkpoint(tmp_path).tensors["a"].shape == (1 << 20, 1 << 19)


def test_the_digest_tells_checkpoints_apart(tmp_path: Path) -> None:
    state = {"a": torch.zeros(5000), "b": torch.zeros(3, dtype=torch.float16)}

    def digest(state: Mapping[str, torch.Tensor], config: str = "{}") -> str:
        (tmp_path / "config.json").write_text(config)
        save_file(dict(state), tmp_path / "model.safetensors")
        return digest_checkpoint(open_checkpoint(tmp_path), ("a", "b"))

    original = digest(state)
    assert digest(state) == original
    variants = [digest(state, "{ }")]
    for index in (0, 4999):
        changed = torch.zeros(5000)
        changed[index] = 1
        variants.append(digest({**state, "a": changed}))
    variants.append(digest({**state, "a": torch.zeros(100, 50)}))
    variants.append(digest({**state, "b": torch.zeros(3, dtype=torch.bfloat16)}))
    assert len({original, *variants}) == len(variants) + 1


def test_the_digest_does_not_depend_on_the_container(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    state = tensors()
    save_file(state, tmp_path / "model.safetensors")
    from_safetensors = digest_checkpoint(open_checkpoint(tmp_path), state)
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert digest_checkpoint(open_checkpoint(tmp_path), state) == from_safetensors
    assert np.unique(list(from_safetensors)).size > 1
