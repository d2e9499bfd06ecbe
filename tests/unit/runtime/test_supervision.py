"""A command that dies without a word: its parent says why, ends what it had started and removes what it had begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, resource, signal, subprocess, sys, time
from pathlib import Path
from vamc_runtime.console import StandardStreams
from vamc_runtime.supervise import supervise
folder = Path(sys.argv[2])
def work(journal):
    (folder / "pid").write_text(str(os.getpid()))
    scratch = folder / "scratch"
    journal.stage("link")
    journal.scratch(scratch)
    scratch.mkdir()
    (scratch / "half").write_bytes(b"half")
    (folder / "tmpdir").write_text(os.environ["TMPDIR"])
    exec(sys.argv[1])
    (scratch / "half").unlink()
    scratch.rmdir()
    return 3
with StandardStreams():
    status = supervise(work)
sys.exit(status)
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, code, folder],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
        # A test run in the background may have inherited ignored signals; a user's terminal has not.
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)],
    )


def ended(pid: int) -> bool:
    """Within two seconds; a zombie has ended."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def wait_for(file: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if file.exists() and file.read_text(encoding="ascii"):
            return file.read_text(encoding="ascii")
        time.sleep(0.02)
    raise AssertionError(f"{file} did not appear")


def run(code: str, folder: Path) -> tuple[int, str]:
    process = start(code, folder)
    errors = process.communicate(timeout=60)[1]
    assert ended(int((folder / "pid").read_text()))
    assert {path.name for path in folder.iterdir()} <= {"pid", "tmpdir", "other"}, "something was left behind"
    return process.returncode, errors


def test_a_command_that_ends_as_it_should(tmp_path: Path) -> None:
    assert run("", tmp_path) == (3, "")
    assert (tmp_path / "tmpdir").read_text().startswith(str(tmp_path)), "its temporary files are watched too"


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGSEGV)", "os.abort()", "os._exit(1)", "os._exit(0)"])
def test_a_crash_without_a_reason_is_a_bug(end: str, tmp_path: Path) -> None:
    status, errors = run(end, tmp_path)
    assert status == 70
    assert "in the stage 'link'" in errors and "this is a bug in vamc" in errors


def test_a_killed_command_names_the_signal_and_the_memory(tmp_path: Path) -> None:
    status, errors = run("os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert status == 2
    assert "killed (SIGKILL) in the stage 'link'" in errors and "MiB" in errors and "bug" not in errors


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        ("resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))", "memory ran out"),
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))", "ulimit -f"),
    ],
)
def test_an_exhausted_limit_is_the_reason(limit: str, found: str, tmp_path: Path) -> None:
    """The limits are the parent's too, as those of a shell are."""
    program = PROGRAM.replace("folder =", f"{limit}\nfolder =", 1)
    process = subprocess.run(
        [sys.executable, "-c", program, "time.sleep(0.1); os._exit(1)", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert found in process.stderr and "in the stage 'link'" in process.stderr and "exit status 1" in process.stderr
    assert not (tmp_path / "scratch").exists()


def test_a_time_limit_is_the_reason(tmp_path: Path) -> None:
    status, errors = run("os.kill(os.getpid(), signal.SIGXCPU)", tmp_path)
    assert status == 2 and "ulimit -t" in errors


def test_a_crash_after_the_end_does_not_count(tmp_path: Path) -> None:
    """Libraries crash while an interpreter ends; the work was done, and its files are in place."""
    program = PROGRAM.replace("sys.exit(status)", "os.kill(os.getpid(), signal.SIGSEGV) if status == 3 else None")
    program = program.replace("status = supervise(work)", "status = supervise(work); first = os.getppid()")
    program = program.replace(
        "os.kill(os.getpid(), signal.SIGSEGV) if status == 3 else None",
        "pid = int((folder / 'pid').read_text())\n"
        "if os.getpid() == pid: os.kill(pid, signal.SIGSEGV)\nsys.exit(status)",
    )
    process = subprocess.run([sys.executable, "-c", program, "", tmp_path], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (3, "")


def test_what_it_had_started_ends_too(tmp_path: Path) -> None:
    """Also what is in a session of its own, as the ranks' launcher is."""
    code = (
        "child = subprocess.Popen(['sleep', '1000'], start_new_session=True);"
        "(folder / 'other').write_text(str(child.pid)); os._exit(1)"
    )
    assert run(code, tmp_path)[0] == 70
    assert ended(int((tmp_path / "other").read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        f"signal.signal({int(number)}, lambda *_: (_ for _ in ()).throw(SystemExit(9)));"
        "\ntry:\n    (folder / 'other').write_text('ready')\n    time.sleep(1000)\nexcept SystemExit: pass"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, code, tmp_path],
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    wait_for(tmp_path / "other")
    process.send_signal(number)
    assert process.wait(timeout=30) == 3, "the work ended as it chose to"


def test_a_signal_that_ends_the_work_at_once(tmp_path: Path) -> None:
    process = start("(folder / 'other').write_text('ready'); time.sleep(1000)", tmp_path)
    wait_for(tmp_path / "other")
    process.send_signal(signal.SIGHUP)
    errors = process.communicate(timeout=30)[1]
    assert (process.returncode, errors) == (128 + signal.SIGHUP, "")
    assert not (tmp_path / "scratch").exists()


def test_the_work_ends_with_its_parent(tmp_path: Path) -> None:
    process = start("(folder / 'other').write_text('ready'); time.sleep(1000)", tmp_path)
    wait_for(tmp_path / "other")
    process.kill()
    process.wait()
    assert ended(int((tmp_path / "pid").read_text()))


def test_no_process_can_be_started(tmp_path: Path) -> None:
    """An error of the system, with the reason for the command line to say; nothing is left."""
    code = PROGRAM.replace(
        "with StandardStreams", "def no_fork(): raise BlockingIOError(11, 'no')\nos.fork = no_fork\n"
    )
    code = code.replace("():\n    status", "if True:\n    status", 1)
    process = subprocess.run(
        [sys.executable, "-c", code, "", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert "BlockingIOError" in process.stderr
    assert not list(tmp_path.iterdir())


def test_semaphores_of_a_command_that_dies_are_removed(tmp_path: Path) -> None:
    """multiprocessing's resource tracker does that, unless it is killed with the others."""
    code = (
        "import multiprocessing; lock = multiprocessing.get_context('spawn').Lock();"
        "(folder / 'other').write_text(lock._semlock.name); os.kill(os.getpid(), signal.SIGSEGV)"
    )
    status, errors = run(code, tmp_path)
    assert status == 70 and "SIGSEGV" in errors
    name = (tmp_path / "other").read_text()
    assert name.startswith("/mp-") and not Path(f"/dev/shm/sem.{name[1:]}").exists()


def test_a_command_that_hears_no_signal_is_ended(tmp_path: Path) -> None:
    """As within native code that compiles: Python's handlers do not run there."""
    process = start(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); (folder / 'other').write_text('1'); time.sleep(60)", tmp_path
    )
    wait_for(tmp_path / "other")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
    assert ended(int((tmp_path / "pid").read_text()))
    assert {path.name for path in tmp_path.iterdir()} <= {"pid", "tmpdir", "other"}


def test_a_process_that_does_not_end_after_its_command_is_ended(tmp_path: Path) -> None:
    """The status that it told counts; so it is with threads and workers that hang at the interpreter's exit."""
    code = "import atexit; atexit.register(time.sleep, 60)"
    begun = time.monotonic()
    assert run(code, tmp_path) == (3, "")
    assert time.monotonic() - begun < 30
