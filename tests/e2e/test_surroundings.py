"""The program where something runs out or is not there: a message, the right status, and nothing left behind."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e_tools import REPOSITORY, VAMC, Outcome, assert_nothing_published, assert_user_error, run_process

LLAMA = REPOSITORY / "build_in" / "build" / "hf_llama_fp16.yaml"
PROMPTS = ("--prompt", "你好 🚀", "--prompt", "The capital", "--temperature", "0", "--max-new-tokens", "4")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of what the test starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with next to no room."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def compile_there(workspace: Path, *limits: tuple[int, int]) -> Outcome:
    """Compile as a program of its own, under limits as a shell sets them."""

    def limit() -> None:
        for name, value in limits:
            resource.setrlimit(name, (value, value))

    settings = [f"workspace.path={workspace}", "name=out", "verify.when=off"]
    return run_process(
        VAMC, "compile", LLAMA, *(part for setting in settings for part in ("--set", setting)), preexec_fn=limit
    )


def test_too_little_address_space(temporary: Path, tmp_path: Path) -> None:
    outcome = compile_there(tmp_path / "w", (resource.RLIMIT_AS, 300 << 20))
    assert_user_error(outcome, "memory ran out", "'load compiler'", "ulimit -v")
    assert_nothing_published(tmp_path / "w")
    assert not list(temporary.iterdir())


def test_a_library_that_ends_the_process(temporary: Path, tmp_path: Path) -> None:
    """LLVM exits with 1 where a file cannot be written, in the midst of a build: 1 means outside its budget."""
    outcome = compile_there(tmp_path / "w", (resource.RLIMIT_FSIZE, 100 << 10))
    assert_user_error(outcome, "ulimit -f", "in the stage 'compile ", "100.0 KiB")
    assert_nothing_published(tmp_path / "w")
    assert not list(temporary.iterdir())


def test_no_room_for_the_runstream(full_disk: Path) -> None:
    outcome = compile_there(full_disk / "w")
    assert_user_error(outcome, "the weights need", f"{full_disk} has 64.0 KiB free", "workspace.path")
    assert not list(full_disk.iterdir())


def test_no_room_for_temporary_files(full_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(full_disk))
    outcome = compile_there(tmp_path / "w")
    assert_user_error(outcome, "temporary files need", str(full_disk), "TMPDIR")
    assert_nothing_published(tmp_path / "w")
    assert not list(full_disk.iterdir())


def test_a_run_with_too_little_address_space(demo_runstream: Path) -> None:
    for mebibytes in (60, 110, 165):  # of Python, of numpy's BLAS, of the libraries
        value = mebibytes << 20
        outcome = run_process(
            VAMC, "run", demo_runstream, "--prompt", "x",
            preexec_fn=lambda value=value: resource.setrlimit(resource.RLIMIT_AS, (value, value)),
        )  # fmt: skip
        assert_user_error(outcome, "memory ran out", "ulimit -v")


def test_a_blas_that_asks_for_memory_for_ever(
    demo_runstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenBLAS 0.3.29 does while numpy is imported, where address space is short."""
    (tmp_path / "numpy.py").write_text("while True: pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = run_process(
        VAMC, "run", demo_runstream, "--prompt", "x",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20)),
    )  # fmt: skip
    assert_user_error(outcome, "memory ran out", "ulimit -v")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk"])
def test_text_in_another_encoding(demo_runstream: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    done = subprocess.run([VAMC, "run", demo_runstream, *PROMPTS], capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "\\U0001f680" in done.stdout.decode(encoding) and b"vamc: note: standard output is" in done.stderr
    done = subprocess.run(
        [VAMC, "run", demo_runstream, *PROMPTS, "--json"], capture_output=True, timeout=300, check=False
    )
    monkeypatch.delenv("PYTHONIOENCODING")
    here = run_process(VAMC, "run", demo_runstream, *PROMPTS, "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode(encoding))["completions"] == json.loads(here.output)["completions"]


def test_a_prompt_that_is_not_text(demo_runstream: Path) -> None:
    outcome = run_process(VAMC, "run", demo_runstream, "--prompt", b"caf\xe9 \xff".decode("utf-8", "surrogateescape"))
    assert outcome.status == 2 and "Traceback" not in outcome.errors
    assert "argument --prompt: text in UTF-8 is expected" in outcome.errors


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_text_that_cannot_be_written(demo_runstream: Path, redirection: str, json_option: tuple[str, ...]) -> None:
    command = [VAMC, "run", demo_runstream, "--prompt", "The", "--max-new-tokens", "4", *json_option]
    outcome = run_process("bash", "-c", f'exec "$@" {redirection}', "bash", *command)
    assert outcome.status == 2 and "Traceback" not in outcome.errors
    if "2>&-" not in redirection:
        assert_user_error(outcome, "standard output")


def test_ranks_start_without_standard_streams(compile_demo: Callable[..., Path]) -> None:
    runstream = compile_demo("llama-mini", "fp16", 2)
    command = [VAMC, "run", runstream, "--prompt", "The", "--max-new-tokens", "4"]
    outcome = run_process("bash", "-c", 'exec "$@" 2>&- <&-', "bash", *command)
    assert outcome.status == 0 and "tok/s" in outcome.output


def test_a_full_disk_for_errors_is_no_obstacle(demo_runstream: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [VAMC, "run", demo_runstream, "--prompt", "The", "--max-new-tokens", "4"],
            stdout=subprocess.PIPE,
            stderr=full,
            timeout=300,
            check=False,
            env=dict(os.environ),
        )
    assert done.returncode == 0 and b"tok/s" in done.stdout
