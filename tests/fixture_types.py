"""The types of what fixtures give, for the signatures of tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from e2e_tools import Outcome

    from vamc_compiler.config import BuildConfig
    from vamc_compiler.verify.subject import Subject

BuildDemo: TypeAlias = "Callable[..., Subject]"
"""`build_demo(model, precision, tp, mcpu)`."""
CompileDemo: TypeAlias = Callable[..., Path]
"""`compile_demo(...)`, the runstream of `build_demo(...)`."""
CopyCheckpoint: TypeAlias = Callable[[str], Path]
"""A demo checkpoint, by name, that the test may damage."""
CopyRunstream: TypeAlias = Callable[[Path], Path]
"""A runstream that the test may damage."""
ErrorOf: TypeAlias = Callable[..., str]
"""The message with which a build config is refused."""
HeldOut: TypeAlias = Callable[[str], list[int]]
"""Tokens of held-out text, by model."""
Load: TypeAlias = "Callable[..., BuildConfig]"
"""Loads a build config."""
Reference: TypeAlias = "Callable[[str, list[int]], npt.NDArray[np.float32]]"
"""Logits of the original model: (model, token ids)."""
Vamc: TypeAlias = "Callable[..., Outcome]"
"""The command line, in this process."""
