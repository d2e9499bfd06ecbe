"""docs/numerics.md says what the code and the golden figures say."""

from __future__ import annotations

from typing import Any

import pytest
from golden.document import DOCUMENT, marks, render

PARTS = render()


@pytest.mark.parametrize("name", PARTS)
def test_the_part_is_what_make_numerics_update_writes(name: Any) -> None:
    begin, end = marks(name)
    _, found, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    assert found, f"docs/numerics.md has a part {name}"
    assert rest.partition(end)[0].strip() == PARTS[name], "make numerics-update was not run"
