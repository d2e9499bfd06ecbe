"""README.md's commands and programs do what it says, in the order in which a reader runs them.

Every command is here: run as it stands where it takes seconds, else with the test that does run it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import REPOSITORY, code_blocks, read_document, shell_commands
from fixture_types import CompileDemo

README = read_document("README.md")
RUN = "run"
# What every command begins with, and why it is not run here; the first that fits counts.
HANDLING = {
    "make ": "run by CI and by whoever has a clone; needs a network",
    "pip install": "tests/packaging",
    "VAMC_CHECKPOINT=": "a checkpoint of the reader's",
    "vamc run /srv/models": "a path of the reader's",
    "vamc compile build_in/build/hf_baichuan_int8.yaml": "the fixture builds it",
    "vamc compile build_in/build/hf_llama_fp16.yaml": "the fixture builds it",
    "vamc verify": "test_verify.py",
    "vamc ": RUN,
}
# Lines that hold times, which are others on every machine.
_TIMES = re.compile(r"tok/s|\d s\b")


def handling(command: str) -> str:
    """How a command of the README is tested."""
    return next(how for start, how in HANDLING.items() if command.startswith(start))


COMMANDS = shell_commands(README)


@pytest.fixture(scope="module")
def folder(compile_demo: CompileDemo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader stands after `make demo` and the compile commands of the README."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "build_in").symlink_to(REPOSITORY / "build_in")
    (folder / "source_code").symlink_to(REPOSITORY / "source_code")
    deployed = folder / "vacc_deploy"
    deployed.mkdir()
    (deployed / "demo").symlink_to(compile_demo("baichuan2-13b-mini", "int8", 2))
    (deployed / "levels").symlink_to(compile_demo("llama-mini"))
    return folder


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader does who has activated the environment."""
    activated = f'PATH="{Path(sys.executable).parent}:$PATH"; {command}'
    return subprocess.run(["bash", "-c", activated], cwd=folder, capture_output=True, text=True, timeout=300)


def test_every_command_is_handled() -> None:
    assert all(handling(command) for command in COMMANDS)
    assert sum(handling(command) == RUN for command in COMMANDS) >= 4


@pytest.mark.parametrize("command", [command for command in COMMANDS if handling(command) == RUN])
def test_a_command_runs(command: str, folder: Path) -> None:
    done = shell(command, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_two_prompts_give_the_text_that_is_shown(folder: Path) -> None:
    (command,) = (command for command in COMMANDS if command.count("--prompt") == 2)
    (shown,) = (block for block in code_blocks(README, "") if block.startswith("[1/2]"))
    found = shell(command, folder).stdout
    assert _without_times(found) == _without_times(shown)


def _without_times(text: str) -> list[str]:
    return [line for line in text.strip().splitlines() if line.strip() and not _TIMES.search(line)]


@pytest.mark.parametrize("program", code_blocks(README, "python"), ids=lambda text: text.split("\n")[0][:40])
def test_a_program_runs(program: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    last_comment = program.rsplit("# ", 1)[-1].strip()
    if re.fullmatch(r"[\d.]+e-\d+", last_comment):  # the size of a difference: others on every CPU, never much larger
        assert float(done.stdout) < 10 * float(last_comment)
