"""Accounts for the pages of the KV cache: who may write where is decided here, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable


class PageAllocator:
    """Hands out page numbers in [0, num_pages); every page, page 0 too, is an ordinary one.

    Args:
        num_pages: pages in the pool, at least 1.
    """

    def __init__(self, num_pages: int) -> None:
        assert num_pages >= 1, f"a pool needs at least one page, not {num_pages}"
        self.num_pages = num_pages
        # The page freed last is handed out first: it may still be in the processor's cache.
        self._free = list(range(num_pages - 1, -1, -1))
        self._is_free = bytearray(b"\x01") * num_pages

    @property
    def num_free(self) -> int:
        """Pages that can be allocated now."""
        return len(self._free)

    def allocate(self, num_pages: int) -> list[int]:
        """Takes pages out of the pool; the caller has checked `num_free`."""
        assert 0 <= num_pages <= self.num_free, f"{num_pages} pages asked for, {self.num_free} are free"
        pages = [self._free.pop() for _ in range(num_pages)]
        for page in pages:
            self._is_free[page] = 0
        return pages

    def free(self, pages: Iterable[int]) -> None:
        """Gives pages back. The pool is left unchanged up to the first page that is not allocated."""
        for page in pages:
            assert 0 <= page < self.num_pages, f"page {page} is not of this pool of {self.num_pages}"
            assert not self._is_free[page], f"page {page} is freed twice"
            self._is_free[page] = 1
            self._free.append(page)
