"""Zip files of torch.save, packed by whoever: the tensors of torch.load, or a message."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_bytes import assert_holds, message

from vamc_compiler.weights.checkpoint import open_checkpoint

Entries = list[tuple[str, bytes]]


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 5), "b": (700,), "c": (2, 3, 4), "d": (1,)}
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float32)
    return {
        name: torch.randn(shape, generator=generator).to(dtype)
        for (name, shape), dtype in zip(shapes.items(), dtypes, strict=True)
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "pytorch_model.bin"
    torch.save(tensors(), file)
    return file


def entries(path: Path) -> Entries:
    with zipfile.ZipFile(path) as file:
        return [(name, file.read(name)) for name in file.namelist()]


def pack(path: Path, content: Entries, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in content:
            file.writestr(name, data)


def replaced(path: Path, ending: str, data: bytes) -> Entries:
    return [(name, data if name.endswith(ending) else content) for name, content in entries(path)]


def test_zipped_again(path: Path) -> None:
    pack(path, entries(path))
    assert_holds(open_checkpoint(path.parent), tensors())


def test_zipped_again_by_stored_order_of_names(path: Path) -> None:
    pack(path, sorted(entries(path)))
    assert_holds(open_checkpoint(path.parent), tensors())


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1 << 20),
    extra=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    comment=st.binary(max_size=30),
    dropped=st.sets(st.sampled_from([".format_version", ".storage_alignment", "byteorder", ".data/serialization_id"])),
)
def test_any_layout_of_the_zip_gives_what_torch_reads(
    path: Path, seed: int, extra: list[int], comment: bytes, dropped: set[str]
) -> None:
    """Order, alignment, comments and optional records are the packer's choice."""
    torch.save(tensors(), path)
    content = [(name, data) for name, data in entries(path) if not name.endswith(tuple(dropped))]
    random.Random(seed).shuffle(content)
    with zipfile.ZipFile(path, "w") as file:
        file.comment = comment.replace(b"PK", b"  ")
        for index, (name, data) in enumerate(content):
            info = zipfile.ZipInfo(name)
            size = extra[index % len(extra)]
            info.extra = b"FB" + size.to_bytes(2, "little") + b"Z" * size
            file.writestr(info, data)
    assert_holds(open_checkpoint(path.parent), torch.load(path, weights_only=True))


def test_compressed(path: Path) -> None:
    pack(path, entries(path), zipfile.ZIP_DEFLATED)
    text = message(path.parent)
    assert "packed by another tool than torch" in text and "is compressed" in text and "zip -0" in text


def test_big_endian(path: Path) -> None:
    pack(path, replaced(path, "byteorder", b"big"))
    assert "was saved on a big-endian machine" in message(path.parent)


@pytest.mark.parametrize("order", [b"", b"middle", b"little-endian, I believe"])
def test_unknown_byte_order(path: Path, order: bytes) -> None:
    pack(path, replaced(path, "byteorder", order))
    assert "byteorder record says neither little nor big" in message(path.parent)


def test_a_folder_whose_name_is_not_utf8(path: Path) -> None:
    """zipfile reads such a name in the encoding of DOS; torch cannot say where the file begins."""
    path.write_bytes(path.read_bytes().replace(b"pytorch_model/", b"pytorch_mode\x8c/"))
    assert "is damaged" in message(path.parent)


@pytest.mark.parametrize("alignment", [b"", b"6x", b"1" * 40])
def test_an_alignment_that_is_no_number(path: Path, alignment: bytes) -> None:
    pack(path, replaced(path, ".storage_alignment", alignment))
    assert "record .storage_alignment is not a number" in message(path.parent)


@pytest.mark.parametrize("size", [0, 1399, 1401])
def test_a_record_of_another_size_than_its_storage(path: Path, size: int) -> None:
    pack(path, replaced(path, "data/1", b"\1" * size))
    assert f"record data/1 of 1400 bytes has {size} bytes" in message(path.parent)


def test_an_archive_whose_own_number_is_damaged(path: Path) -> None:
    pack(path, replaced(path, "serialization_id", b"12345678901234567890\xf5"))
    assert "torch refuses it" in message(path.parent)


def test_records_in_two_folders(path: Path) -> None:
    pack(path, [*entries(path), ("elsewhere/data/9", b"x")])
    assert "torch refuses it" in message(path.parent)


def test_a_record_that_is_missing(path: Path) -> None:
    pack(path, [(name, data) for name, data in entries(path) if not name.endswith("data/2")])
    assert "record data/2 of 48 bytes is missing" in message(path.parent)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("change", [str, str.upper], ids=["same", "other case"])
def test_a_record_that_is_there_twice(path: Path, change: Callable[[str], str]) -> None:
    """zipfile takes the last one, torch the first, and torch ignores case."""
    content = entries(path)
    name, data = next(entry for entry in content if entry[0].endswith("data/0"))
    folder, rest = name.split("/", 1)
    pack(path, [*content, (f"{folder}/{change(rest)}", data[::-1])])
    assert "twice" in message(path.parent)


def test_bytes_before_the_zip(path: Path) -> None:
    """zipfile finds its way in a self-extracting archive; torch takes offsets as they are written."""
    path.write_bytes(b"PK\x03\x04 and more" + path.read_bytes())
    assert "is damaged" in message(path.parent)


def test_a_header_that_is_overwritten(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        offset = next(info.header_offset for info in file.infolist() if info.filename.endswith("data/1"))
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = b"XXXX"
    path.write_bytes(content)
    assert "there is no header where" in message(path.parent)


def test_torchscript(path: Path) -> None:
    script: Any = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))  # type: ignore[no-untyped-call]
    torch.jit.save(script, path)
    text = message(path.parent)
    assert "is a TorchScript archive" in text or "is compressed" in text


def with_pickle(path: Path, edit: Callable[[bytes], bytes]) -> None:
    pack(path, [(name, edit(data) if name.endswith("data.pkl") else data) for name, data in entries(path)])


def test_a_view_beyond_its_storage(path: Path) -> None:
    """torch makes the storage longer, with whatever memory holds."""
    torch.save({"a": torch.ones(200)[150:]}, path)  # offset 150, 50 numbers
    with_pickle(path, lambda data: data.replace(b"K\x96K2", b"K\x97K2"))
    assert "tensor 'a' ends beyond its storage" in message(path.parent)


def test_a_negated_view(path: Path) -> None:
    """The storage holds the numbers with the other sign; torch keeps a note beside them."""
    torch.save({"a": torch.ones(3)._neg_view()}, path)
    assert torch.load(path, weights_only=True)["a"].tolist() == [-1, -1, -1]
    assert "tensor 'a' is stored as a negated or conjugated view" in message(path.parent)


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (torch.ones(3).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (torch.ones(3, device="meta"), "torch._utils._rebuild_meta_tensor_no_storage"),
        (torch.ones(3).as_subclass(Subclass), f"{__name__}.Subclass"),
        (bytearray(b"x"), "bytearray"),
        (torch.device("cpu"), "torch.device"),
    ],
    ids=["sparse", "meta", "subclass", "bytearray", "device"],
)
def test_what_is_no_plain_tensor_is_named(path: Path, value: object, named: str) -> None:
    torch.save({"a": value}, path)
    text = message(path.parent)
    assert "holds more than plain tensors" in text and named in text


def test_parameters_and_tensors_with_attributes(path: Path) -> None:
    marked, parameter = torch.arange(4.0), torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    marked.partition_dim = parameter.partition_dim = 1  # type: ignore[attr-defined]
    state = {"marked": marked, "parameter": parameter, "buffer": torch.nn.Buffer(torch.ones(2))}
    torch.save(state, path)
    assert_holds(open_checkpoint(path.parent), state)


def test_a_name_that_is_no_text(path: Path) -> None:
    torch.save({7: torch.ones(2)}, path)
    assert "names a tensor 7" in message(path.parent)


@pytest.mark.parametrize("content", [b"", b".", b"(", b"K", b"}q\x00(X\x01\x00\x00\x00au.", pickle.dumps({}, 5)])
def test_a_pickle_that_is_cut_or_of_another_protocol(path: Path, content: bytes) -> None:
    pack(path, replaced(path, "data.pkl", content))
    assert "its pickle cannot be read" in message(path.parent)


def test_a_pickle_of_absurd_length(path: Path) -> None:
    """The zip directory may claim any size; nothing of the kind is read."""
    content = entries(path)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in content:
            file.writestr(name, data)
    path.write_bytes(stream.getvalue())
    with zipfile.ZipFile(path) as file:
        info = next(info for info in file.infolist() if info.filename.endswith("data.pkl"))
    raw = bytearray(stream.getvalue())
    entry = raw.index(b"PK\x01\x02")
    raw[entry + 20 : entry + 28] = (0x7FFFFFF0).to_bytes(4, "little") * 2
    assert info.header_offset == 0
    path.write_bytes(raw)
    assert "is longer than what is there" in message(path.parent)


def test_a_git_lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
    text = message(path.parent)
    assert "is a Git LFS pointer, not the file itself" in text and "git lfs pull" in text


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_shorter_than_its_directory_says(path: Path, cut: int) -> None:
    pack(path, entries(path))
    os.truncate(path, path.stat().st_size - cut)
    assert "is damaged" in message(path.parent)
