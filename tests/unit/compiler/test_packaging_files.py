"""What is copied into a runstream, and which of its files the manifest records."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vamc_compiler.intermediates import Intermediates
from vamc_compiler.package import record_files, toolchain_versions


def test_records(tmp_path: Path) -> None:
    files = {
        "lib/model.so": b"code",
        "rank_0/params.safetensors": b"weights",
        "rank_0/weights.safetensors": b"listed: not of the ONNX graph",
        "onnx/rank_0/model.onnx": b"",
        "onnx/rank_0/weights.safetensors": b"written when it is needed",
        "intermediates/01_traced.onnx": b"a dump",
        "tokenizer/tokenizer.model": b"words",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    progress: list[tuple[int, int]] = []
    records = record_files(tmp_path, lambda done, total: progress.append((done, total)))
    unlisted = {"onnx/rank_0/weights.safetensors", "intermediates/01_traced.onnx"}
    assert list(records) == sorted(files.keys() - unlisted)
    for name, record in records.items():
        assert (record.num_bytes, record.sha256) == (len(files[name]), hashlib.sha256(files[name]).hexdigest())
    assert progress == [(i, 5) for i in range(1, 6)]


def test_toolchain() -> None:
    versions = toolchain_versions()
    assert {"python", "vamc", "torch", "apache-tvm", "apache-tvm-ffi", "onnx"} <= versions.keys()
    assert "not installed" not in versions.values()


class Module:
    """A TVM module, as far as a dump goes."""

    def script(self) -> str:
        return "# a script"


def test_intermediates_are_numbered(tmp_path: Path) -> None:
    kept = Intermediates(tmp_path / "intermediates")
    assert kept.kept and not (tmp_path / "intermediates").exists()
    kept.module("imported", Module())
    kept.module("lowered", Module())
    names = sorted(path.name for path in (tmp_path / "intermediates").iterdir())
    assert names == ["01_imported.py", "02_lowered.py"]
    assert (tmp_path / "intermediates" / names[0]).read_text() == "# a script"


def test_intermediates_are_off_by_default() -> None:
    off = Intermediates(None)
    assert not off.kept
    off.module("imported", Module())
