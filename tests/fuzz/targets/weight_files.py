"""Weight files of a checkpoint, damaged: safetensors headers and data, zip files and pickles of .bin, indices.

What is accepted must be what torch.load and the safetensors library read. Where the library itself refuses, so must
the product: reading something that no one else can read is no better than reading it wrong.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from fuzz.target import Target
from vamc_compiler.weights.checkpoint import Checkpoint, open_checkpoint
from vamc_compiler.weights.stored_tensor import ITEM_BYTES

State = Mapping[str, torch.Tensor]


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(12, 6, generator=generator).half()
    return {
        "model.embed_tokens.weight": base,
        "model.norm.weight": torch.randn(6, generator=generator),
        "model.layers.0.mlp.up_proj.weight": torch.randn(5, 6, generator=generator).bfloat16(),
        "lm_head.weight": torch.randn(12, 6, generator=generator).half(),
    }


@dataclass(frozen=True)
class Undamaged:
    """Files that cases begin with."""

    folder: Path
    safetensors: bytes
    archive: tuple[tuple[str, bytes], ...]
    """Records of a .bin file: views of one storage, parameters, plain tensors."""
    bin: bytes
    shards: Mapping[str, bytes]
    index: Mapping[str, Any]


def _prepare(folder: Path) -> Undamaged:
    state = _tensors()
    buffer = io.BytesIO()
    shared = {"first": state["lm_head.weight"][:4], "last": state["lm_head.weight"][4:]}
    parameters = {"parameter": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)), "int": torch.arange(4)}
    torch.save({**state, **shared, **parameters}, buffer)
    with zipfile.ZipFile(buffer) as file:
        archive = tuple((info.filename, file.read(info)) for info in file.infolist())
    names = list(state)
    shards = {f"{i}.safetensors": save({name: state[name] for name in names[i::2]}) for i in range(2)}
    weight_map = {name: f"{i}.safetensors" for i in range(2) for name in names[i::2]}
    return Undamaged(
        folder, save(state), archive, buffer.getvalue(), shards, {"metadata": {}, "weight_map": weight_map}
    )


def _damage_bytes(rng: random.Random, content: bytes, first: int = 0, last: int | None = None) -> bytes:
    """A few bytes changed, or a piece cut, doubled or moved."""
    data = bytearray(content)
    end = min(len(data), last or len(data))
    if end <= first:
        return content
    kind = rng.randrange(5)
    if kind < 3:
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            place = rng.randrange(first, end)
            data[place] = data[place] ^ (1 << rng.randrange(8)) if kind < 2 else rng.randrange(256)
    elif kind == 3:
        del data[rng.randrange(first, end) :][: rng.choice((1, 4, len(data)))]
        data = data[: rng.randrange(first, len(data) + 1)] if rng.random() < 0.3 else data
    else:
        place, size = rng.randrange(first, end), rng.choice((1, 2, 4, 8, 30))
        piece = data[place : place + size]
        data[place:place] = piece
    return bytes(data)


def _some_value(rng: random.Random) -> Any:
    return rng.choice(
        (
            0,
            -1,
            1,
            2,
            6,
            72,
            144,
            1 << 31,
            1 << 63,
            1 << 64,
            1e300,
            0.5,
            True,
            None,
            "",
            "F16",
            [],
            {},
            [0, 0],
            [1 << 40],
        )
    )


def _edit_json(rng: random.Random, value: Any) -> Any:
    """One place of a JSON value changed, removed, doubled or nudged."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        kind = rng.random()
        if kind < 0.1:
            return {name: entry for name, entry in value.items() if name != key}
        if kind < 0.2:
            return {**value, rng.choice(("x", "__metadata__", key + "x")): value[key]}
        return {**value, key: _edit_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], _edit_json(rng, value[place]), *value[place + 1 :]]
    if isinstance(value, int) and rng.random() < 0.7:
        return value + rng.choice((-144, -2, -1, 1, 2, 12, 144))
    return _some_value(rng)


def _safetensors(case: Undamaged, rng: random.Random, folder: Path) -> None:
    length = int.from_bytes(case.safetensors[:8], "little")
    header, data = case.safetensors[8 : 8 + length], case.safetensors[8 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        content = _damage_bytes(rng, case.safetensors, 0, 8 + length + 16)
    elif kind == 1:
        damaged = _damage_bytes(rng, header)
        content = len(damaged).to_bytes(8, "little") + damaged + data
    elif kind == 2:
        damaged = json.dumps(_edit_json(rng, json.loads(header))).encode()
        content = len(damaged).to_bytes(8, "little") + damaged + data
    else:  # two entries with each other's places: valid now and then
        entries = json.loads(header)
        one, other = rng.sample(sorted(entries), 2)
        entries[one], entries[other] = entries[other], entries[one]
        damaged = json.dumps(entries).encode()
        content = len(damaged).to_bytes(8, "little") + damaged + data
    (folder / "model.safetensors").write_bytes(content)


def _pack(path: Path, records: list[tuple[str, bytes]], rng: random.Random) -> None:
    compressed = rng.random() < 0.1
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        for name, data in records:
            info = zipfile.ZipInfo(name)
            extra = rng.choice((0, 0, 1, 3, 60))
            info.extra = struct.pack("<2sH", b"FB", extra) + bytes(extra)
            info.compress_type = file.compression
            file.writestr(info, data)


def _archive(case: Undamaged, rng: random.Random, folder: Path) -> None:
    path, records = folder / "pytorch_model.bin", list(case.archive)
    kind = rng.randrange(6)
    place = rng.randrange(len(records))
    name, data = records[place]
    if kind == 0:  # the zip itself: directory at the end, headers between
        start = rng.choice((0, case.bin.rindex(b"PK\x05\x06") - 40, case.bin.index(b"PK\x01\x02")))
        path.write_bytes(_damage_bytes(rng, case.bin, max(0, start)))
        return
    if kind == 1:
        records[place] = (name, _damage_bytes(rng, data))
    elif kind == 2:
        pickled = next(index for index, record in enumerate(records) if record[0].endswith("data.pkl"))
        records[pickled] = (records[pickled][0], _damage_bytes(rng, records[pickled][1]))
    elif kind == 3:
        rng.shuffle(records)
    elif kind == 4:
        del records[place]
    else:
        records[place] = (rng.choice(records)[0] if rng.random() < 0.5 else name.upper(), data)
    _pack(path, records, rng)


def _sharded(case: Undamaged, rng: random.Random, folder: Path) -> None:
    shards = dict(case.shards)
    if rng.random() < 0.2:
        shards.popitem()
    for file, content in shards.items():
        (folder / file).write_bytes(content)
    if rng.random() < 0.3:
        (folder / "model.safetensors").symlink_to(rng.choice(("0.safetensors", "nowhere")))
    index = json.dumps(_edit_json(rng, case.index)).encode()
    (folder / "model.safetensors.index.json").write_bytes(_damage_bytes(rng, index) if rng.random() < 0.3 else index)


_KINDS: tuple[Callable[[Undamaged, random.Random, Path], None], ...] = (_safetensors, _archive, _sharded)


def _library_tensors(folder: Path) -> State:
    """What transformers would hand to the model."""
    for single in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        path = folder / single
        if path.exists():
            break
    if path.suffix == ".bin":
        state: State = torch.load(path, weights_only=True, map_location="cpu")
        return state
    if path.suffix == ".safetensors":
        return load_file(path)
    files = sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    return {name: tensor for file in files for name, tensor in load_file(folder / file).items()}


def _check(found: Checkpoint, expected: State) -> None:
    assert set(found.tensors) == set(expected), "the same names"
    for name, tensor in expected.items():
        stored = found.tensors[name]
        assert stored.shape == tuple(tensor.shape), name
        if stored.dtype not in ITEM_BYTES:
            continue
        assert f"torch.{stored.dtype}" == str(tensor.dtype), name
        with stored.path.open("rb") as file:
            file.seek(stored.offset)
            raw = file.read(stored.num_bytes)
        assert raw == tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(), name


def _run(case: Undamaged, rng: random.Random) -> None:
    for path in case.folder.iterdir():
        path.unlink()
    rng.choice(_KINDS)(case, rng, case.folder)
    found = open_checkpoint(case.folder)
    _check(found, _library_tensors(case.folder))


TARGET = Target(name="weight_files", num_cases=2000, num_quick=150, prepare=_prepare, run=_run)
