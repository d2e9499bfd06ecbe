"""Mapped tensors have the values and the alignment that the file gives them; other files are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fake_runstream as fake
import numpy as np
import numpy.typing as npt
import pytest

from vamc_runtime.arrays import as_tensor
from vamc_runtime.errors import UserError
from vamc_runtime.safetensors_file import MAX_HEADER_BYTES, read_header, tensor_views
from vamc_runtime.weights_memory import Placement, load_file

Views = Callable[[Path], Iterable[tuple[str, npt.NDArray[Any]]]]
TENSORS: dict[str, npt.NDArray[Any]] = {
    "half": np.arange(15, dtype=np.float16).reshape(3, 5) / 8,
    "bytes": np.arange(-128, 128, dtype=np.int8).reshape(2, 128),
    "scale": np.linspace(-1, 1, 7, dtype=np.float32),
    "index": np.array([[[-(2**31)]], [[2**31 - 1]]], np.int32),
    "one": np.array(2.5, np.float32),
    "packed": np.array([[0, 2**32 - 1]], np.uint32),
    "shorts": np.array([-(2**15), 2**15 - 1], np.int16),
    "words": np.array([0, 2**16 - 1], np.uint16),
    "octets": np.array([0, 255], np.uint8),
    "nothing": np.zeros((0, 4), np.float16),
    "last": np.array([1.0, -1.0], np.float16),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fake.write_safetensors(tmp_path / "weights.safetensors", TENSORS, {"rank": "3"})
    return tmp_path / "weights.safetensors"


@pytest.fixture(params=[False, True], ids=["mapped", "huge pages"])
def views(request: pytest.FixtureRequest) -> Views:
    """Name and array of every tensor of a file, loaded in every way there is."""
    placement = Placement(copied=request.param, read_ahead=True)
    return lambda path: tensor_views(read_header(path), load_file(path, placement))


def test_values_and_shapes(path: Path, views: Views) -> None:
    mapped = dict(views(path))
    assert list(mapped) == list(TENSORS), "every tensor in the order of the header, and no pad"
    for name, expected in TENSORS.items():
        assert mapped[name].dtype == expected.dtype
        assert mapped[name].shape == expected.shape
        np.testing.assert_array_equal(mapped[name], expected)


def test_bfloat16_is_its_bits(tmp_path: Path, views: Views) -> None:
    path = tmp_path / "weights.safetensors"
    fake.write_safetensors(path, {"a": np.array([0x3F80, 0xBF80], np.uint16)}, {})
    path.write_bytes(path.read_bytes().replace(b'"U16"', b'"BF16"', 1).replace(b" ", b"", 1))
    ((_, tensor),) = views(path)
    assert tensor.dtype == np.uint16 and tensor.tolist() == [0x3F80, 0xBF80]


def test_a_type_of_a_later_version(path: Path, views: Views) -> None:
    path.write_bytes(path.read_bytes().replace(b'"F16"', b'"F4Q"', 1))
    with pytest.raises(UserError, match=r"half in .* has type F4Q"):
        dict(views(path))


def test_header(path: Path) -> None:
    header = read_header(path)
    assert header.path == path
    assert header.metadata == {"rank": "3"}
    assert "__metadata__" not in header.tensors
    assert any(name.startswith("__pad_") for name in header.tensors), "the file has pads to skip"
    assert header.data_start % 64 == 0


def test_aligned_as_the_header_says(path: Path, views: Views) -> None:
    for name, tensor in views(path):
        assert tensor.ctypes.data % 64 == 0 or not tensor.size, name
        if tensor.size:
            as_tensor(tensor)  # compiled code may have it


def test_unaligned_files_map_too_and_are_refused_by_as_tensor(tmp_path: Path, views: Views) -> None:
    path = tmp_path / "weights.safetensors"
    fake.write_safetensors(path, {"a": np.zeros(3, np.int8), "b": np.arange(4, dtype=np.int8)}, {}, alignment=1)
    mapped = dict(views(path))
    assert mapped["b"].tolist() == [0, 1, 2, 3] and mapped["b"].ctypes.data % 64
    with pytest.raises(Exception, match="align"):
        as_tensor(mapped["b"])


def test_nothing_is_written_back(path: Path, views: Views) -> None:
    before = path.read_bytes()
    mapped = dict(views(path))
    mapped["scale"][...] = 9
    del mapped
    assert path.read_bytes() == before


def test_arrays_outlive_the_iteration(path: Path, views: Views) -> None:
    tensor = next(array for name, array in views(path) if name == "half")
    path.unlink()
    np.testing.assert_array_equal(tensor, TENSORS["half"])


def test_metadata_may_be_absent(tmp_path: Path, views: Views) -> None:
    path = tmp_path / "weights.safetensors"
    header = json.dumps({"a": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x01\x02")
    assert read_header(path).metadata == {}
    assert dict(views(path))["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05",
        b"PK\x03\x04 a zip archive of weights, as torch.save writes it",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (100).to_bytes(8, "little") + b'{"cut":',
        (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
        (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
    ],
)
def test_garbage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_header(path)
    assert caught.value.found == f"{path} is no safetensors file"
    assert "copy or compile" in caught.value.fix


def test_a_huge_length_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\xff" * 8 + b"{}")
    with pytest.raises(UserError):  # not MemoryError
        read_header(path)
