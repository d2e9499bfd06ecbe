"""A config that is right, and ways to load it changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fixture_types import ErrorOf, Load

from vamc_compiler.config import BuildConfig, load_config
from vamc_runtime.errors import UserError

GOOD = """\
name: demo
frontend:
  checkpoint: model
  shape:
    input_ids: [[256], [1024]]
  model_kwargs:
    tp: 2
backend:
  dtype: fp16
"""


@pytest.fixture
def good() -> str:
    return GOOD


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load text (or data to dump) as <tmp>/in/build.yaml, with <tmp>/out as the current directory."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    monkeypatch.chdir(out)

    def run(content: str | dict[str, Any] = GOOD, *overrides: str) -> BuildConfig:
        text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        path = folder / "build.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return run


@pytest.fixture
def error_of(load: Load, tmp_path: Path) -> ErrorOf:
    """The message of the error, with the path of the file shortened to `build.yaml`."""

    def run(content: str | dict[str, Any] = GOOD, *overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            load(content, *overrides)
        return str(caught.value).replace(str(tmp_path / "in") + "/", "")

    return run
