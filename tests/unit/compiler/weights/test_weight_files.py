"""Which files of a folder are the weights: those that transformers takes; what leads nowhere is said."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from stored_bytes import assert_holds, message

from vamc_compiler.weights.checkpoint import open_checkpoint
from vamc_compiler.weights.weight_files import find_weight_files

SAFE_INDEX, BIN_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"


def tensor(value: float) -> torch.Tensor:
    return torch.full((3,), float(value))


def write_shards(directory: Path, shards: Mapping[str, Mapping[str, torch.Tensor]], **moved: str) -> None:
    """Shards and their index; `moved` names another file for a tensor than the one that holds it."""
    for file, state in shards.items():
        save_file(dict(state), directory / file)
    weight_map = {name: file for file, state in shards.items() for name in state}
    (directory / SAFE_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map | moved}))


def write_map(directory: Path, weight_map: object, index: str = SAFE_INDEX) -> None:
    (directory / index).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("left_out", range(4))
def test_the_order_of_transformers(tmp_path: Path, left_out: int) -> None:
    """The first of the four that is there wins, whatever lies beside it."""
    from transformers.modeling_utils import _get_resolved_checkpoint_files

    names = ["model.safetensors", SAFE_INDEX, "pytorch_model.bin", BIN_INDEX]
    for name in names[left_out:]:
        (tmp_path / name).write_bytes(b"")
        if name.endswith(".json"):
            shard = f"x-{name.removesuffix('.index.json')}"
            (tmp_path / shard).write_bytes(b"")
            (tmp_path / name).write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard}}))
    expected, _ = _get_resolved_checkpoint_files(tmp_path, None, None, None, None, False)
    assert [str(path) for path in find_weight_files(tmp_path).paths] == expected


def test_an_index_left_by_an_earlier_save(tmp_path: Path) -> None:
    save_file({"a": tensor(1)}, tmp_path / "model.safetensors")
    write_map(tmp_path, {"a": "model-00001-of-00001.safetensors"})
    assert_holds(open_checkpoint(tmp_path), {"a": tensor(1)})
    save_file({"a": tensor(2)}, tmp_path / "model-00001-of-00001.safetensors")
    assert_holds(open_checkpoint(tmp_path), {"a": tensor(1)})


def test_the_file_that_config_json_names(tmp_path: Path) -> None:
    save_file({"a": tensor(1)}, tmp_path / "model.safetensors")
    save_file({"a": tensor(2)}, tmp_path / "other.safetensors")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"transformers_weights": "other.safetensors"}))
    assert_holds(open_checkpoint(tmp_path), {"a": tensor(2)})
    config.write_text(json.dumps({"transformers_weights": None}))
    assert_holds(open_checkpoint(tmp_path), {"a": tensor(1)})
    for wrong, text in (
        ("gone.safetensors", "names gone.safetensors as the weights, which is missing"),
        ("../other.safetensors", "expected: files in the folder of the checkpoint"),
        ("other.bin", "has 'other.bin' for 'transformers_weights'"),
        (7, "has 7 for 'transformers_weights'"),
    ):
        config.write_text(json.dumps({"transformers_weights": wrong}))
        assert text in message(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", SAFE_INDEX, "pytorch_model.bin", BIN_INDEX])
def test_a_link_that_leads_nowhere(tmp_path: Path, name: str) -> None:
    """As in a snapshot of a Hugging Face cache that was copied without its blobs; no other file is taken instead."""
    torch.save({"a": tensor(1)}, tmp_path / "pytorch_model.bin.other")
    (tmp_path / name).symlink_to("../../blobs/4d7a")
    if name != BIN_INDEX and name != "pytorch_model.bin":
        torch.save({"a": tensor(1)}, tmp_path / "pytorch_model.bin")
    text = message(tmp_path)
    assert f"{tmp_path / name} is a link that leads to no file: ../../blobs/4d7a" in text


def test_links_that_lead_somewhere(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    write_shards(blobs, {"1.safetensors": {"a": tensor(1)}, "2.safetensors": {"b": tensor(2)}})
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert_holds(open_checkpoint(snapshot), {"a": tensor(1), "b": tensor(2)})
    (blobs / "2.safetensors").unlink()
    assert "names weight files that are missing: 2.safetensors (a link that leads to no file)" in message(snapshot)


@pytest.mark.parametrize(
    "file", ["/etc/passwd.safetensors", "../x.safetensors", "a/../../x.safetensors", "", "x\0.safetensors"]
)
def test_an_index_that_leads_out_of_the_folder(tmp_path: Path, file: str) -> None:
    write_map(tmp_path, {"a": file})
    text = message(tmp_path)
    assert f"names the weight file {file!r}" in text and "files in the folder of the checkpoint" in text


@pytest.mark.parametrize("file", ["x.bin", "x", "tokenizer.json", 7, None, ["x.safetensors"]])
def test_an_index_that_names_other_files(tmp_path: Path, file: object) -> None:
    write_map(tmp_path, {"a": file})
    assert "names the weight file" in message(tmp_path)


def test_a_folder_where_a_shard_should_be(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    write_map(tmp_path, {"a": "x.safetensors"})
    assert "names weight files that are missing: x.safetensors" in message(tmp_path)


def test_names_too_long_for_a_file(tmp_path: Path) -> None:
    write_map(tmp_path, {"a": "x" * 5000 + ".safetensors"})
    assert "cannot be read" in message(tmp_path)


def test_shards_in_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    save_file({"a": tensor(1)}, tmp_path / "weights" / "x.safetensors")
    write_map(tmp_path, {"a": "weights/x.safetensors"})
    assert_holds(open_checkpoint(tmp_path), {"a": tensor(1)})


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    """transformers takes the one of the last file, whatever the index says."""
    write_shards(tmp_path, {"1.safetensors": {"a": tensor(1), "b": tensor(2)}, "2.safetensors": {"b": tensor(3)}})
    text = message(tmp_path)
    assert "1.safetensors and 2.safetensors both hold b" in text and "expected: every tensor in one file" in text


def test_a_tensor_in_another_shard(tmp_path: Path) -> None:
    shards = {"1.safetensors": {"a": tensor(1), "b": tensor(2)}, "2.safetensors": {"c": tensor(3)}}
    write_shards(tmp_path, shards, b="2.safetensors")
    assert "b is in 1.safetensors, not in 2.safetensors" in message(tmp_path)


def test_a_tensor_that_only_the_index_knows(tmp_path: Path) -> None:
    shards = {"1.safetensors": {"a": tensor(1)}}
    write_shards(tmp_path, shards, gone="1.safetensors")
    assert "does not fit the files that it lists:\n  gone is missing from 1.safetensors" in message(tmp_path)
    write_shards(tmp_path, shards, **{"layers.0.rotary_emb.inv_freq": "1.safetensors"})
    assert_holds(open_checkpoint(tmp_path), {"a": tensor(1)})


def test_a_tensor_that_the_index_does_not_know(tmp_path: Path) -> None:
    """transformers loads it."""
    write_shards(tmp_path, {"1.safetensors": {"a": tensor(1), "b": tensor(2)}})
    write_map(tmp_path, {"a": "1.safetensors"})
    assert_holds(open_checkpoint(tmp_path), {"a": tensor(1), "b": tensor(2)})


@pytest.mark.parametrize("name", [SAFE_INDEX, BIN_INDEX])
def test_an_index_that_is_a_git_lfs_pointer(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(POINTER)
    assert f"{name} is a Git LFS pointer, not the file itself" in message(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    save_file({"a": tensor(1)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").chmod(0)
    assert "cannot be read: Permission denied" in message(tmp_path)
