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
import safetensors.numpy

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


def test_a_type_that_compiled_code_does_not_take(tmp_path: Path, views: Views) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(file_of({"half": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, 8))
    with pytest.raises(UserError, match=r"'half' in .* has type I64"):
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
    assert caught.value.found == f"{path} is damaged: it is not a safetensors file"
    assert "copy the file again" in caught.value.fix


GOOD: dict[str, Any] = {
    "a": {"dtype": "F16", "shape": [3, 2], "data_offsets": [0, 12]},
    "b": {"dtype": "I8", "shape": [], "data_offsets": [12, 13]},
    "none": {"dtype": "F32", "shape": [0, 7], "data_offsets": [13, 13]},
    "c": {"dtype": "F32", "shape": [1], "data_offsets": [13, 17]},
}


def file_of(header: Any, num_bytes: int = 17) -> bytes:
    text = header if isinstance(header, str) else json.dumps(header)
    return len(text.encode()).to_bytes(8, "little") + text.encode() + b"\x01" * num_bytes


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], **fields}}


class TestDamagedHeaders:
    """Every one is a header that a mapping would take for memory it is not."""

    def error_of(self, tmp_path: Path, content: bytes) -> str:
        path = tmp_path / "weights.safetensors"
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read_header(path)
        assert caught.value.found.startswith(f"{path} is damaged: ") and caught.value.fix
        return caught.value.found.removeprefix(f"{path} is damaged: ")

    def test_the_good_one(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        path.write_bytes(file_of(GOOD))
        header = read_header(path)
        assert list(header.tensors) == list(GOOD)
        for name, entry in GOOD.items():
            found = header.tensors[name]
            assert [found.dtype, list(found.shape), [found.begin, found.end]] == list(entry.values())

    @pytest.mark.parametrize(
        ("header", "found"),
        [
            (changed("a", dtype="F17"), "has the type 'F17'"),
            (changed("a", dtype=["F16"]), "has the type ['F16']"),
            (changed("a", dtype="F32"), "lies in 12 bytes"),
            (changed("a", shape=[3, 3]), "lies in 12 bytes"),
            (changed("a", shape=[-3, -2]), "has the shape [-3, -2]"),
            (changed("a", shape=[3.0, 2]), "has the shape [3.0, 2]"),
            (changed("a", shape=[3, True]), "has the shape [3, True]"),
            (changed("a", shape=6), "has the shape 6"),
            (changed("a", shape=[1] * 70 + [6]), "has the shape"),
            (changed("a", shape=[2**62, 2**62]), "lies in 12 bytes"),
            (changed("a", data_offsets=[0, 13]), "lies in 13 bytes"),
            (changed("a", data_offsets=[12, 0]), "lies in -12 bytes"),
            (changed("a", data_offsets=[-12, 0]), "has the data_offsets [-12, 0]"),
            (changed("a", data_offsets=[0, 12, 12]), "has the data_offsets"),
            (changed("a", data_offsets=None), "has the data_offsets None"),
            (changed("c", data_offsets=[12, 16]), "begins at byte 12 of the data, not 13"),
            (changed("c", data_offsets=[14, 18]), "begins at byte 14 of the data, not 13"),
            ({**GOOD, "d": {"dtype": "I8"}}, "not dtype, shape and data_offsets"),
            ({**GOOD, "d": [1]}, "not dtype, shape and data_offsets"),
            ({name: GOOD[name] for name in ("a", "b")}, "end at byte 13 of 17"),
            ({name: GOOD[name] for name in ("b", "c")}, "begins at byte 12 of the data, not 0"),
            ({**GOOD, "d": GOOD["c"]}, "begins at byte 13 of the data, not 17"),
            ({**GOOD, "__metadata__": {"rank": 0}}, "not an object of texts"),
            ({**GOOD, "__metadata__": ["rank"]}, "not an object of texts"),
            (json.dumps(GOOD)[:-1] + ', "a": ' + json.dumps(GOOD["a"]) + "}", "the key 'a' appears twice"),
            (json.dumps(GOOD).replace("12", "1" * 5000, 1), "a number of 5000 digits"),
            (json.dumps(GOOD).replace("12", "NaN", 1), "NaN"),
            (json.dumps(GOOD)[:-1] + ', "a\\ud800": 1}', "half of a surrogate pair"),
            (json.dumps(GOOD)[:-1] + ', "d": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested more than"),
            (json.dumps(GOOD)[:-1], "Expecting"),
        ],
    )
    def test_one_value(self, tmp_path: Path, header: Any, found: str) -> None:
        assert found in self.error_of(tmp_path, file_of(header))

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (-1, "its tensor 'c' ends at byte 283 of 282: the file is cut off"),
            (-17, "its tensor 'a' ends at byte 278 of 266: the file is cut off"),
            (1, "its tensors end at byte 17 of 18 of the data"),
        ],
    )
    def test_a_file_of_another_size(self, tmp_path: Path, change: int, found: str) -> None:
        assert self.error_of(tmp_path, file_of(GOOD, 17 + change)) == found

    def test_what_the_format_may_add_to_an_entry(self, tmp_path: Path) -> None:
        """The library accepts it."""
        path = tmp_path / "weights.safetensors"
        path.write_bytes(file_of(changed("b", extra=1)))
        assert set(safetensors.numpy.load_file(path)) == set(read_header(path).tensors)

    def test_bits(self, tmp_path: Path) -> None:
        """A flipped bit in the header is refused, or changes nothing but names and what is empty."""
        content = file_of(GOOD)
        length = int.from_bytes(content[:8], "little")
        path = tmp_path / "weights.safetensors"
        stored = [entry for entry in GOOD.values() if 0 not in entry["shape"]]
        shapes = [(entry["dtype"], entry["shape"], entry["data_offsets"]) for entry in stored]
        num_accepted = 0
        for bit in range(8 * (8 + length)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            try:
                header = read_header(path)
            except UserError:
                continue
            num_accepted += 1
            found = [(e.dtype, list(e.shape), [e.begin, e.end]) for e in header.tensors.values() if 0 not in e.shape]
            assert found == shapes or set(header.tensors) - set(GOOD), f"bit {bit}"
        assert num_accepted < 100

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be read: No such file"):
            read_header(tmp_path / "weights.safetensors")


def test_a_huge_length_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\xff" * 8 + b"{}")
    with pytest.raises(UserError):  # not MemoryError
        read_header(path)
