"""Several ranks: started by vamc itself, or by mpiexec; cores, threads, failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from e2e_tools import VAMC, Outcome, assert_user_error, run_process
from fixture_types import CompileDemo, CopyRunstream, Vamc

from vamc_runtime import LLM, SamplingParams, UserError
from vamc_runtime.machine import available_cores

MPIEXEC = Path(sys.executable).parent / "mpiexec"
MODEL = ("baichuan2-13b-mini", "int8")
ARGUMENTS = ("--prompt", "The capital of France", "--max-new-tokens", "16", "--temperature", "0")


@pytest.fixture(scope="module")
def two_ranks(compile_demo: CompileDemo) -> Path:
    return compile_demo(*MODEL, 2)


def test_run_starts_the_ranks_itself(vamc: Vamc, two_ranks: Path) -> None:
    outcome = vamc("run", two_ranks, *ARGUMENTS)
    assert outcome.status == 0, outcome.errors
    assert "Paris" in outcome.output


def test_run_under_mpiexec_prints_once(vamc: Vamc, two_ranks: Path) -> None:
    outcome = run_process(MPIEXEC, "-n", 2, VAMC, "run", two_ranks, *ARGUMENTS)
    assert outcome.status == 0, outcome.errors
    assert outcome.output.split("\n\n")[0] == vamc("run", two_ranks, *ARGUMENTS).output.split("\n\n")[0]
    assert outcome.output.count("prefill") == 1


def test_wrong_number_of_ranks(two_ranks: Path, demo_runstream: Path) -> None:
    for count, runstream in ((3, two_ranks), (2, demo_runstream)):
        outcome = run_process(MPIEXEC, "-n", count, VAMC, "run", runstream, *ARGUMENTS)
        assert_user_error(outcome, f"started {count}", "mpiexec -n")


def run_apart(*ranks: tuple[object, ...]) -> Outcome:
    """One rank with each of several command lines."""
    words: list[object] = []
    for arguments in ranks:
        words += [*([":"] if words else []), "-n", 1, VAMC, "run", *arguments]
    return run_process("timeout", 60, MPIEXEC, *words)


def test_ranks_of_different_runstreams(two_ranks: Path, compile_demo: CompileDemo) -> None:
    """As on hosts with copies of their own, one of them old."""
    other = compile_demo(MODEL[0], "fp16", 2)
    outcome = run_apart((two_ranks, *ARGUMENTS), (other, *ARGUMENTS))
    assert_user_error(outcome, "rank 1", f"{other} is another runstream")


def test_a_runstream_that_was_replaced_after_a_program_read_it(
    two_ranks: Path, compile_demo: CompileDemo, tmp_path: Path
) -> None:
    path = tmp_path / "current"
    path.symlink_to(two_ranks)
    llm = LLM(path)
    path.unlink()
    path.symlink_to(compile_demo(MODEL[0], "fp16", 2))
    with pytest.raises(UserError, match="is another runstream"), llm:
        pass


def test_rank_0_decides_how_large_the_cache_is(vamc: Vamc, two_ranks: Path) -> None:
    """It gives out the pages: with fewer, another rank would write where nothing is."""
    many = [word for _ in range(8) for word in ARGUMENTS[:2]]
    arguments = (*many, *ARGUMENTS[2:])
    outcome = run_apart(
        (two_ranks, *arguments, "--kv-cache-tokens", 2048), (two_ranks, *arguments, "--kv-cache-tokens", 16)
    )
    assert outcome.status == 0, outcome.errors
    assert outcome.output.count("Paris") >= 8


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_rank_that_finds_no_runstream_keeps_no_other_waiting(two_ranks: Path, tmp_path: Path, wrong: int) -> None:
    paths = [two_ranks, two_ranks]
    paths[wrong] = tmp_path / "nothing"
    outcome = run_apart(*[(path, *ARGUMENTS) for path in paths])
    assert_user_error(outcome, f"rank {wrong}", "is not a runstream")


def test_without_mpi(vamc: Vamc, two_ranks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec

    def hidden(name: str, *rest: Any) -> Any:
        return None if name == "mpi4py" else find_spec(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    assert_user_error(vamc("run", two_ranks, *ARGUMENTS), 'pip install "vamc[mpi]"')


def test_error_of_one_rank_reaches_the_user(vamc: Vamc, two_ranks: Path, copy_runstream: CopyRunstream) -> None:
    path = copy_runstream(two_ranks)
    (path / "rank_1" / "params.safetensors").write_bytes((path / "rank_0" / "params.safetensors").read_bytes())
    for outcome in (
        vamc("run", path, *ARGUMENTS),
        run_process(MPIEXEC, "-n", 2, VAMC, "run", path, *ARGUMENTS),
    ):
        assert_user_error(outcome, "rank 1", "holds the weights of rank 0")


def ranks_of(process: psutil.Process) -> list[psutil.Process]:
    found = process.children(recursive=True)
    return [
        child for child in found if "vamc_runtime.ranks" in " ".join(child.cmdline()) and "-n" not in child.cmdline()
    ]


def test_ranks_pin_disjoint_cores_and_end_with_the_context(two_ranks: Path) -> None:
    with LLM(two_ranks) as llm:
        llm.generate([[5, 6, 7]], SamplingParams(max_new_tokens=4))
        ranks = ranks_of(psutil.Process())
        assert len(ranks) == 2
        cores = [set(os.sched_getaffinity(thread.id)) for rank in ranks for thread in rank.threads()[:1]]
        share = max(1, len(available_cores()) // 2)
        assert all(len(pinned) <= share for pinned in cores)
        if len(available_cores()) >= 2:
            assert not cores[0] & cores[1]
    deadline = time.monotonic() + 10
    while any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks):
        assert time.monotonic() < deadline, "ranks outlive their program"
        time.sleep(0.05)


def test_ranks_end_when_their_program_is_killed(two_ranks: Path) -> None:
    script = (
        "import sys, time\nfrom vamc_runtime import LLM\n"
        f"with LLM({str(two_ranks)!r}) as llm:\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None and program.stdout.readline() == "ready\n"
    ranks = ranks_of(psutil.Process(program.pid))
    assert len(ranks) == 2
    program.send_signal(signal.SIGKILL)
    program.wait()
    _, alive = psutil.wait_procs(ranks, timeout=15)
    assert not alive


def test_a_rank_that_dies_is_an_error_not_a_hang(two_ranks: Path) -> None:
    with LLM(two_ranks) as llm:
        llm.generate([[5, 6, 7]], SamplingParams(max_new_tokens=2))
        ranks_of(psutil.Process())[1].kill()
        with pytest.raises(UserError, match="signal 9, SIGKILL"):
            llm.generate([[5, 6, 7]], SamplingParams(max_new_tokens=64, ignore_eos=True))


def test_two_runstreams_in_one_process(two_ranks: Path, demo_runstream: Path) -> None:
    """Opening one leaves the process as it was: cores, and the way to open another."""
    before = os.sched_getaffinity(0)
    for path in (demo_runstream, two_ranks, demo_runstream):
        with LLM(path) as llm:
            llm.generate([[5, 6, 7]], SamplingParams(max_new_tokens=2))
        assert os.sched_getaffinity(0) == before


LONG = ("--prompt", "The capital of France", "--max-new-tokens", "900", "--temperature", "0", "--ignore-eos")


@pytest.mark.parametrize("num_times", [1, 2])
@pytest.mark.parametrize("by_user", [False, True], ids=["vamc starts them", "mpiexec starts them"])
def test_interrupted_ranks_end_without_noise(two_ranks: Path, by_user: bool, num_times: int) -> None:
    """Ctrl-C as a terminal sends it, to the whole group, once or twice in a row."""
    launcher = [MPIEXEC, "-n", "2"] if by_user else []
    command = [str(part) for part in (*launcher, VAMC, "run", two_ranks, *LONG)]
    program = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A test run in the background may have inherited an ignored SIGINT; a user's terminal has not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert program.stdout is not None and program.stdout.read(8)  # it generates
    for _ in range(num_times):
        os.killpg(program.pid, signal.SIGINT)
        time.sleep(0.05)
    errors = program.communicate(timeout=60)[1].decode()
    assert "Traceback" not in errors and "Error" not in errors
    if not by_user:  # mpiexec says what it does, and how it ends is its own
        assert (program.returncode, errors) == (130, "vamc: interrupted\n")


def test_ranks_import_nothing_from_the_current_directory(two_ranks: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in ("json", "socket", "numpy", "mpi4py", "tvm_ffi", "argparse", "vamc_runtime", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write('{name} ')")
    environment = {**os.environ, "PYTHONPATH": ""}
    outcome = run_process(VAMC, "run", two_ranks, *ARGUMENTS, cwd=folder, env=environment)
    assert outcome.status == 0, outcome.errors
    assert not ran.exists(), ran.read_text()
