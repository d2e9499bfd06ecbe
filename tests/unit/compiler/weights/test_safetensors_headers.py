"""Headers of safetensors files: accepted where the safetensors library accepts them, with the same tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from stored_bytes import assert_holds, message

from vamc_compiler.weights.checkpoint import open_checkpoint
from vamc_runtime.errors import UserError

DATA = bytes(range(64))


def half(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F16", "shape": [(end - begin) // 2], "data_offsets": [begin, end], **changes}


def write(directory: Path, header: object, data: bytes = DATA) -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = directory / "model.safetensors"
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


REFUSED: dict[str, object] = {
    "overlap": {"a": half(0, 64), "b": half(0, 64)},
    "partly overlapping": {"a": half(0, 40), "b": half(32, 64)},
    "hole": {"a": half(0, 32), "b": half(48, 64)},
    "starts late": {"a": half(2, 64)},
    "ends early": {"a": half(0, 32)},
    "name twice": b'{"a": %b, "a": %b}' % (json.dumps(half(0, 32)).encode(), json.dumps(half(32, 64)).encode()),
    "unknown type": {"a": half(0, 64, dtype="F17")},
    "sizes overflow": {"a": half(0, 64, shape=[1 << 62, 1 << 62])},
    "size beyond 64 bits": {"a": half(0, 64, shape=[1 << 70])},
    "integer of 5000 digits": b'{"a": {"dtype": "F16", "shape": [%b], "data_offsets": [0, 64]}}' % (b"9" * 5000),
    "shape of text": {"a": half(0, 64, shape="32")},
    "true as a size": {"a": half(0, 64, shape=[True, 32])},
    "metadata of numbers": {"__metadata__": {"a": 1}, "a": half(0, 64)},
    "NaN": b'{"a": {"dtype": "F16", "shape": [NaN], "data_offsets": [0, 64]}}',
    "deep": b"[" * 100_000,
    "lone surrogate": b'{"\\ud800": %b}' % json.dumps(half(0, 64)).encode(),
}


@pytest.mark.parametrize("header", REFUSED.values(), ids=REFUSED)
def test_what_the_format_forbids(tmp_path: Path, header: object) -> None:
    path = write(tmp_path, header)
    with pytest.raises(SafetensorError):
        load_file(path)
    assert "model.safetensors is damaged" in message(tmp_path)


def test_bytes_after_the_last_tensor(tmp_path: Path) -> None:
    write(tmp_path, {"a": half(0, 64)}, DATA + b"x")
    assert "its tensors end at byte 64 of 65 of the data" in message(tmp_path)


def test_a_git_lfs_pointer(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    assert "is a Git LFS pointer, not the file itself" in message(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-4, 70) | st.sampled_from(["F16", "F32", "BF16", "I8", "F8_E4M3", "", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "dtype", "shape"]), inner),
    max_leaves=6,
)
OFFSET = st.sampled_from([0, 16, 32, 48, 64])


@st.composite
def headers(draw: st.DrawFn) -> object:
    """Mostly valid: cuts of the data into tensors, with one entry or field changed now and then."""
    cuts = sorted({0, 64, *draw(st.lists(OFFSET, max_size=3))})
    names = draw(st.permutations(["a", "b", "c", "d"]))
    header: dict[str, Any] = {
        name: half(begin, end) for name, begin, end in zip(names, cuts[:-1], cuts[1:], strict=False)
    }
    if draw(st.booleans()):
        entry = header[draw(st.sampled_from(sorted(header)))]
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets", "extra"]))
        entry[field] = draw(st.lists(st.integers(0, 66), max_size=3) | JSON)
    return header


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=headers(), data=st.sampled_from([DATA, DATA[:-1], DATA + b"x"]))
def test_the_library_decides(tmp_path: Path, header: object, data: bytes) -> None:
    path = write(tmp_path, header, data)
    try:
        expected: dict[str, torch.Tensor] | None = load_file(path)
    except SafetensorError:
        expected = None
    try:
        found = open_checkpoint(tmp_path)
    except UserError:
        assert expected is None
        return
    assert expected is not None
    floats = {
        name: tensor for name, tensor in expected.items() if tensor.dtype.is_floating_point and tensor.itemsize > 1
    }
    assert set(found.tensors) == set(expected)
    assert_holds(type(found)(tmp_path, {name: found.tensors[name] for name in floats}), floats)


def test_a_file_that_shrinks_after_it_was_indexed(tmp_path: Path) -> None:
    from vamc_compiler.weights.checkpoint import digest_checkpoint

    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(5000)}, path)
    checkpoint = open_checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="became shorter while it was read"):
        digest_checkpoint(checkpoint, ["a"])
