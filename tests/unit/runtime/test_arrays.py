"""Memory for compiled code is aligned, shared rather than copied, reused, and costs nothing before it is written."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vamc_runtime.arrays import (
    ALIGNMENT_BYTES,
    HUGE_PAGE_BYTES,
    Staging,
    aligned_empty,
    as_tensor,
    huge_pages,
    zero_pages,
)


@given(num_bytes=st.integers(0, 70_000))
def test_aligned_empty(num_bytes: int) -> None:
    array = aligned_empty(num_bytes)
    assert array.dtype == np.uint8 and array.shape == (num_bytes,)
    assert array.ctypes.data % ALIGNMENT_BYTES == 0 or not num_bytes
    array[...] = 255  # all of it is ours


@pytest.mark.parametrize("shift", [1, 4, 32, 63])
def test_a_misaligned_array_is_refused(shift: int) -> None:
    buffer = aligned_empty(256)
    with pytest.raises(Exception, match="align"):
        as_tensor(buffer[shift : shift + 64])


def test_a_tensor_shares_the_memory() -> None:
    array = aligned_empty(64)
    tensor = as_tensor(array)
    array[:] = range(64)
    assert np.from_dlpack(tensor).tolist() == list(range(64))
    assert np.from_dlpack(tensor).ctypes.data == array.ctypes.data


class TestStaging:
    def test_values_and_shape(self) -> None:
        staging = Staging()
        values = np.arange(-6, 6, dtype=np.int32).reshape(3, 4)
        seen = np.from_dlpack(staging.put("page_table", values))
        np.testing.assert_array_equal(seen, values)
        assert seen.dtype == np.int32 and seen.ctypes.data != values.ctypes.data
        assert seen.ctypes.data % ALIGNMENT_BYTES == 0

    def test_a_name_keeps_its_memory(self) -> None:
        staging = Staging()
        address = np.from_dlpack(staging.put("a", np.arange(100, dtype=np.int32))).ctypes.data
        for size in (1, 1024, 7, 0, 3):
            seen = np.from_dlpack(staging.put("a", np.arange(size, dtype=np.int32)))
            assert seen.tolist() == list(range(size))
            assert seen.ctypes.data == address or not size

    def test_growth(self) -> None:
        staging = Staging()
        small = staging.put("a", np.zeros(4, np.int32))
        large = np.arange(5000, dtype=np.int32)
        seen = np.from_dlpack(staging.put("a", large))
        np.testing.assert_array_equal(seen, large)
        assert seen.ctypes.data % ALIGNMENT_BYTES == 0
        assert np.from_dlpack(small).tolist() == [0] * 4, "a tensor over the old memory stays valid"
        # Room to spare: a page table that grows by one column does not move every time.
        grown = np.from_dlpack(staging.put("a", np.zeros(6000, np.int32)))
        assert grown.ctypes.data == seen.ctypes.data

    def test_names_are_apart(self) -> None:
        staging = Staging()
        first = staging.put("a", np.full(64, 1, np.int32))
        second = staging.put("b", np.full(64, 2, np.int32))
        assert set(np.from_dlpack(first).tolist()) == {1}
        assert set(np.from_dlpack(second).tolist()) == {2}

    @settings(deadline=None)
    @given(sizes=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3000)), max_size=20))
    def test_any_sequence(self, sizes: list[tuple[str, int]]) -> None:
        staging = Staging()
        held = {}
        for turn, (name, size) in enumerate(sizes):
            values = np.full(size, turn, np.int32)
            held[name] = (staging.put(name, values), values)
            for tensor, expected in held.values():
                np.testing.assert_array_equal(np.from_dlpack(tensor), expected)


def resident_bytes() -> int:
    """Memory that this process uses, shared memory included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


class TestZeroPages:
    @pytest.mark.parametrize("allocate", [zero_pages, huge_pages])
    @pytest.mark.parametrize("num_bytes", [0, 1, 63, 4096, 4097, 1 << 20, (2 << 20) + 1])
    def test_zeros(self, allocate: Callable[[int], npt.NDArray[np.uint8]], num_bytes: int) -> None:
        array = allocate(num_bytes)
        assert array.dtype == np.uint8 and array.shape == (num_bytes,)
        assert not array.any()
        array[...] = 1
        assert not num_bytes or array.ctypes.data % ALIGNMENT_BYTES == 0

    def test_memory_is_taken_by_writing_only(self) -> None:
        before = resident_bytes()
        array = zero_pages(1 << 30)
        assert resident_bytes() - before < 16 << 20, "allocated, not used"
        assert not array[: 64 << 20 : mmap.PAGESIZE].any()
        assert resident_bytes() - before < 16 << 20, "read, not used"
        array[: 64 << 20] = 1
        assert resident_bytes() - before >= 64 << 20

    def test_huge_pages_begin_at_one(self) -> None:
        assert huge_pages(100).ctypes.data % HUGE_PAGE_BYTES == 0

    @pytest.mark.parametrize("allocate", [zero_pages, huge_pages])
    def test_memory_is_given_back(self, allocate: Callable[[int], npt.NDArray[np.uint8]]) -> None:
        before = resident_bytes()
        array = allocate(64 << 20)
        array[...] = 1
        del array
        assert resident_bytes() - before < 16 << 20
