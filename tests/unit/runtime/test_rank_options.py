"""Options reach ranks as they were given; what is out of range is refused when it is given."""

from __future__ import annotations

from typing import Any

import fake_runstream as fake
import pytest

from vamc_runtime.errors import UserError
from vamc_runtime.ranks.options import RankOptions


@pytest.mark.parametrize(
    ("settings", "effective"),
    [
        ({"runtime": {"huge_pages": "on"}}, "on"),
        ({"runtime": {"huge_pages": "off"}}, "off"),
        ({"runtime": {"huge_pages": "of"}}, "auto"),
        ({"runtime": None}, "auto"),
        ({}, "auto"),
    ],
)
def test_the_build_config_has_the_default(settings: dict[str, Any], effective: str) -> None:
    manifest = fake.make_manifest(settings=settings)
    assert RankOptions(num_pages=1).effective_huge_pages(manifest) == effective
    assert RankOptions(num_pages=1, huge_pages="off").effective_huge_pages(manifest) == "off"


@pytest.mark.parametrize("num_threads", [0, -2])
def test_threads(num_threads: int) -> None:
    with pytest.raises(UserError, match=f"{num_threads} threads"):
        RankOptions(num_pages=1, num_threads=num_threads)


def test_huge_pages() -> None:
    with pytest.raises(UserError) as caught:
        RankOptions(num_pages=1, huge_pages="yes")  # type: ignore[arg-type]
    assert caught.value.expected == "one of auto, on, off"


def test_command_line() -> None:
    assert RankOptions(num_pages=3).command_line() == ["--pages", "3"]
