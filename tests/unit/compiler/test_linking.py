"""Libraries are linked by `ld` or by the linker in the ziglang wheel, and load."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from vamc_compiler.link import find_linker, link_library
from vamc_compiler.relax_stage.pipeline import build, run_passes
from vamc_compiler.relax_stage.targets import host_target
from vamc_runtime.errors import UserError


@pytest.fixture(scope="module")
def executable() -> Any:
    """step(x) = x + x."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([3], "float32"))
    with builder.function("step", [x]):
        with builder.dataflow():
            total = builder.emit_output(relax.op.add(x, x))
        builder.emit_func_output(total)
    target = host_target().tvm_target()
    return build(run_passes(builder.get(), target), target)


def without_ld(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


def without_ziglang(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ziglang" else real(name, *rest)
    )


def test_ld_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert find_linker() == ["/bin/ld"]


def test_without_ld_ziglang_links(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ld(monkeypatch)
    program, command = find_linker()
    assert Path(program).name == "zig" and os.access(program, os.X_OK)
    assert command == "ld.lld"


def test_without_either_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ld(monkeypatch)
    without_ziglang(monkeypatch)
    with pytest.raises(UserError, match="neither `ld` on PATH nor the ziglang wheel") as caught:
        find_linker()
    assert "pip install ziglang" in caught.value.fix and "binutils" in caught.value.fix


@pytest.mark.parametrize("linker", ["ld", "ziglang"])
def test_a_linked_library_loads(tmp_path: Path, executable: Any, monkeypatch: pytest.MonkeyPatch, linker: str) -> None:
    if linker == "ziglang":
        without_ld(monkeypatch)
    elif shutil.which("ld") is None:
        pytest.skip("this machine has no ld")
    command = find_linker()
    monkeypatch.undo()
    path = tmp_path / "model.so"
    link_library(executable, path, command)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    x = np.array([1.0, 2.0, -3.5], np.float32)
    np.testing.assert_array_equal(machine["step"](tvm.runtime.tensor(x)).numpy(), x + x)
    assert [file.name for file in tmp_path.iterdir()] == ["model.so"]


def test_a_linker_that_fails_is_quoted(tmp_path: Path, executable: Any) -> None:
    script = tmp_path / "ld"
    script.write_text("#!/bin/sh\necho no room for sections >&2\nexit 3\n")
    script.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"-shared -o .*model\.so .* failed:\nno room for sections"):
        link_library(executable, tmp_path / "model.so", [str(script)])


@pytest.mark.parametrize(
    ("end", "number"),
    [
        ("echo 'ld: final link failed: No space left on device' >&2; exit 1", errno.ENOSPC),
        ("echo 'ld.lld: error: cannot open output file: Disk quota exceeded' >&2; exit 1", errno.EDQUOT),
        ("echo 'ld: memory exhausted' >&2; exit 1", errno.ENOMEM),
        ("kill -BUS $$", errno.ENOSPC),
        ("kill -XFSZ $$", errno.EFBIG),
        ("kill -KILL $$", errno.ENOMEM),
    ],
)
def test_what_the_linker_lacked_is_an_error_of_the_system(
    tmp_path: Path, executable: Any, end: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "ld"
    script.write_text(f"#!/bin/sh\n{end}\n")
    script.chmod(0o755)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        link_library(executable, tmp_path / "model.so", [str(script)])
    assert caught.value.errno == number and caught.value.filename == str(tmp_path / "model.so")
    assert not list((tmp_path / "temporary").iterdir())
