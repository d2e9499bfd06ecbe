"""`--keep-intermediates`: what every stage made, under numbered names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

FOLDER = "intermediates"


class Intermediates:
    """Writes dumps in the order of the stages; does nothing when `folder` is None."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._count = 0

    @property
    def kept(self) -> bool:
        """Whether dumps are written."""
        return self._folder is not None

    def _next(self, name: str) -> Path:
        assert self._folder is not None, "callers check `kept`"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._count += 1
        return self._folder / f"{self._count:02d}_{name}"

    def onnx(self, name: str, model: onnx.ModelProto) -> None:
        """Keep an ONNX graph (weights are its inputs, so it is small)."""
        if self.kept:
            self._next(f"{name}.onnx").write_bytes(model.SerializeToString())

    def module(self, name: str, module: Any) -> None:
        """Keep a TVM module as TVMScript."""
        if self.kept:
            self._next(f"{name}.py").write_text(module.script(), encoding="utf-8")
