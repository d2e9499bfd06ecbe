"""An index that is wrong anywhere is found by reading the checkpoint with torch.load and safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rank_weights import make_build, write_files
from safetensors.torch import save_file

from vamc_compiler.verify.published_weights import find_misread
from vamc_compiler.verify.weights import ALL_RANKS
from vamc_compiler.weights.checkpoint import Checkpoint, open_checkpoint
from vamc_compiler.weights.stored_tensor import StoredTensor

CONTAINERS = ("safetensors", "bin", "safetensors shards", "bin shards")


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model.embed_tokens.weight": torch.randn(50, 6, generator=generator).bfloat16(),
        "model.norm.weight": torch.randn(6, generator=generator),
        "model.long": torch.randn(200_001, generator=generator).half(),
        "model.scalar": torch.tensor(2.5),
        "model.empty": torch.empty(0, 4),
        "lm_head.weight": torch.randn(50, 6, generator=generator).half(),
    }


def save(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    if path.suffix == ".bin":
        torch.save(dict(state), path)
    else:
        save_file(dict(state), path)


def write(directory: Path, container: str) -> Checkpoint:
    directory.mkdir(exist_ok=True)
    kind, _, sharded = container.partition(" ")
    single = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    state = tensors()
    if not sharded:
        save(directory / single, state)
        return open_checkpoint(directory)
    parts = {f"{i}.{kind}": {name: state[name] for name in list(state)[i::2]} for i in range(2)}
    for file, part in parts.items():
        save(directory / file, part)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (directory / f"{single}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return open_checkpoint(directory)


def changed(checkpoint: Checkpoint, name: str, edit: Callable[[StoredTensor], StoredTensor]) -> Checkpoint:
    return replace(checkpoint, tensors={**checkpoint.tensors, name: edit(checkpoint.tensors[name])})


def misread(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    return [(found.tensor, found.hint) for found in find_misread(checkpoint, tensors().keys())]


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_right_index(tmp_path: Path, container: str) -> None:
    assert misread(write(tmp_path, container)) == []


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", [name for name, tensor in tensors().items() if tensor.numel()])
def test_one_tensor_elsewhere(tmp_path: Path, container: str, name: str) -> None:
    wrong = changed(write(tmp_path, container), name, lambda tensor: replace(tensor, offset=tensor.offset - 2))
    ((tensor, hint),) = misread(wrong)
    assert tensor == name and "its library reads other bytes than the compiler" in hint


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"dtype": "float16"}, "its library reads torch.bfloat16, the compiler float16"),
        ({"shape": (6, 50)}, "its library reads shape [50, 6], the compiler [6, 50]"),
        ({"offset": 1 << 40}, "its library reads other bytes"),
    ],
)
def test_another_type_or_shape_or_a_place_beyond_the_file(
    tmp_path: Path, container: str, change: dict[str, object], expected: str
) -> None:
    name = "model.embed_tokens.weight"
    wrong = changed(write(tmp_path, container), name, lambda tensor: replace(tensor, **change))  # type: ignore[arg-type]
    ((tensor, hint),) = misread(wrong)
    assert tensor == name and expected in hint


def test_two_tensors_mixed_up(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, "bin")
    names = ("model.norm.weight", "lm_head.weight", "model.embed_tokens.weight")
    one, other = checkpoint.tensors[names[1]], replace(checkpoint.tensors[names[2]], dtype="float16")
    wrong = replace(
        checkpoint, tensors={**checkpoint.tensors, names[1]: other, names[2]: replace(one, dtype="bfloat16")}
    )
    assert {name for name, _ in misread(wrong)} == set(names[1:])


def test_an_index_of_files_that_transformers_does_not_load(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, "safetensors shards")
    save(tmp_path / "model.safetensors", {name: tensor + 1 for name, tensor in tensors().items()})
    assert {name for name, _ in misread(checkpoint)} == {name for name, tensor in tensors().items() if tensor.numel()}


def test_a_tensor_that_is_not_stored(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, "safetensors")
    without = {name: tensor for name, tensor in tensors().items() if name != "model.norm.weight"}
    save(tmp_path / "model.safetensors", without)
    found = dict(misread(checkpoint))
    assert found["model.norm.weight"] == "torch.load and safetensors find no such tensor"


@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_a_file_that_its_library_refuses(tmp_path: Path, container: str) -> None:
    checkpoint = write(tmp_path, container)
    (path,) = checkpoint.files
    path.write_bytes(path.read_bytes()[:200])
    ((tensor, hint),) = misread(checkpoint)
    assert tensor == "" and "torch.load and safetensors do not read" in hint


def test_the_weights_check_reports_it(tmp_path: Path) -> None:
    """Rank files that were written through the wrong index agree with it: only the libraries tell."""
    build = make_build(tmp_path, "llama", 2, "fp16")
    name = "model.layers.0.input_layernorm.weight"
    twin = build.checkpoint.tensors["model.layers.0.post_attention_layernorm.weight"]
    assert build.check().passed
    wrong = changed(build.checkpoint, name, lambda _: twin)
    problem = write_files(build.folder, build.ranks, wrong).only_problem()
    assert (problem.tensor, problem.kind, problem.rank) == (name, "checkpoint", ALL_RANKS)
    assert "its library reads other bytes than the compiler" in str(problem)
