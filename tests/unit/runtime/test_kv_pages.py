"""The page pool never gives one page to two owners and loses none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vamc_runtime.kv_pages import PageAllocator


@settings(deadline=None)  # the machine may be busy
@given(num_pages=st.integers(1, 40), data=st.data())
def test_random_allocations(num_pages: int, data: st.DataObject) -> None:
    allocator = PageAllocator(num_pages)
    owners: list[list[int]] = []
    for _ in range(data.draw(st.integers(0, 30))):
        gives_back: bool = data.draw(st.booleans()) if owners else False
        if gives_back:
            allocator.free(owners.pop(data.draw(st.integers(0, len(owners) - 1))))
        else:
            owners.append(allocator.allocate(data.draw(st.integers(0, allocator.num_free))))
        held = [page for pages in owners for page in pages]
        assert len(set(held)) == len(held)
        assert all(0 <= page < num_pages for page in held)
        assert allocator.num_free == num_pages - len(held)
    for pages in owners:
        allocator.free(pages)
    assert sorted(allocator.allocate(num_pages)) == list(range(num_pages))


def test_page_zero_is_an_ordinary_page() -> None:
    assert PageAllocator(1).allocate(1) == [0]


def test_misuse() -> None:
    allocator = PageAllocator(4)
    pages = allocator.allocate(2)
    with pytest.raises(AssertionError, match="3 pages asked for, 2 are free"):
        allocator.allocate(3)
    with pytest.raises(AssertionError, match="page 4 is not of this pool"):
        allocator.free([4])
    with pytest.raises(AssertionError, match="not of this pool"):
        allocator.free([-1])
    with pytest.raises(AssertionError, match="freed twice"):
        allocator.free([pages[0], pages[0]])
    with pytest.raises(AssertionError, match="at least one page"):
        PageAllocator(0)
