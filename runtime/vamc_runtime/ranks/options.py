"""What a program may choose when it opens a runstream; the same for every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from vamc_runtime.errors import UserError
from vamc_runtime.manifest import Manifest
from vamc_runtime.weights_memory import HugePages

_HUGE_PAGES: tuple[HugePages, ...] = get_args(HugePages)


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """Settings of every rank.

    Raises:
        UserError: a value out of range.
    """

    num_pages: int
    """Cache pages to own."""
    num_threads: int | None = None
    """Threads of compiled code on each rank; None for one on every core of its share."""
    huge_pages: HugePages | None = None
    """Where the weights lie; None for what the build config says."""
    verify_hash: bool = False
    """Compare every file with its sha256 first, large ones too."""

    def __post_init__(self) -> None:
        if self.num_threads is not None and self.num_threads < 1:
            raise UserError(f"{self.num_threads} threads", expected="at least one, or none given for all cores")
        if self.huge_pages is not None and self.huge_pages not in _HUGE_PAGES:
            raise UserError(f"huge_pages is {self.huge_pages!r}", expected=f"one of {', '.join(_HUGE_PAGES)}")

    def effective_huge_pages(self, manifest: Manifest) -> HugePages:
        """The setting, the build config's where none was chosen."""
        if self.huge_pages is not None:
            return self.huge_pages
        section = manifest.settings.get("runtime")  # absent in runstreams compiled before there was one
        setting = section.get("huge_pages") if isinstance(section, dict) else None
        return next((known for known in _HUGE_PAGES if known == setting), "auto")

    def command_line(self) -> Sequence[str]:
        """As arguments of `python -m vamc_runtime.ranks.serve`."""
        arguments = ["--pages", str(self.num_pages)]
        arguments += [] if self.num_threads is None else ["--threads", str(self.num_threads)]
        arguments += [] if self.huge_pages is None else ["--huge-pages", self.huge_pages]
        return arguments + ["--verify-hash"] * self.verify_hash
