"""Differences between a stored parameter and what it must hold, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vamc_compiler.verify.expected_weights import ExpectedBlock
from vamc_compiler.verify.stored_weights import StoredBlock, as_floats
from vamc_compiler.verify.unpacking import OFFSET, PANEL_OUTPUTS, Array


@dataclass(frozen=True)
class Difference:
    """Numbers of one kind that are wrong; rows and columns are those of the rank's parameter."""

    kind: str
    first_row: int
    first_column: int
    count: int
    expected: float
    """The first one, as it should be."""
    found: float
    panels: frozenset[int]
    """Panels of 16 rows with a difference."""

    def joined(self, later: Difference) -> Difference:
        """This and the differences of a later block."""
        return replace(self, count=self.count + later.count, panels=self.panels | later.panels)


def block_differences(
    stored: StoredBlock, expected: ExpectedBlock, dtype: str, kind: str, begin: int
) -> Iterator[Difference]:
    """What is wrong with rows from `begin` on; `kind` names wrong numbers of the parameter itself."""
    differs = expected.differs_from(stored.bits)
    if differs.any():
        wanted, found = as_floats(expected.bits, dtype), as_floats(stored.bits, dtype)
        yield _difference(kind, differs, wanted, found, begin)
    if stored.surplus is not None and stored.surplus.any():
        found = as_floats(stored.surplus, dtype)
        yield _difference("padding", stored.surplus != 0, np.zeros_like(found), found, begin)
    if stored.sums is not None:
        found_sums = _row_sums(stored.bits, len(stored.sums))
        wrong = stored.sums != found_sums
        if wrong.any():
            # A wrong weight is reported as such: neither sums that fit it nor the right ones are a second problem.
            wanted_sums = _row_sums(np.where(differs, expected.bits, stored.bits), len(stored.sums))
            wrong &= stored.sums != wanted_sums
        if wrong.any():
            yield _difference("sums", wrong[:, None], wanted_sums[:, None], stored.sums[:, None], begin)


def _row_sums(rows: Array, length: int) -> npt.NDArray[np.int32]:
    """128 * the sum of each row, int32 [length], zeros for rows that are padding."""
    sums = np.zeros(length, np.int32)
    sums[: len(rows)] = OFFSET * rows.sum(axis=1, dtype=np.int32)
    return sums


def _difference(kind: str, differs: npt.NDArray[np.bool_], expected: Array, found: Array, begin: int) -> Difference:
    rows, columns = np.nonzero(differs)
    first = int(rows[0]), int(columns[0])
    return Difference(
        kind=kind,
        first_row=begin + first[0],
        first_column=first[1],
        count=len(rows),
        expected=float(expected[first]),
        found=float(found[first]),
        panels=frozenset(int(panel) for panel in np.unique((begin + rows) // PANEL_OUTPUTS)),
    )
