"""The wheel, and a bare virtual environment with only the wheel and its base dependencies in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging_tools import REPOSITORY, Run, clean_environment


def pip(python: Path | str, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def bare_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment after `pip install vamc`, without extras."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, env=clean_environment())
    pip(folder / "bin" / "python", "install", "--quiet", str(wheel))
    return folder


@pytest.fixture(scope="session")
def bare_python(bare_environment: Path) -> Path:
    """Its interpreter."""
    return bare_environment / "bin" / "python"


@pytest.fixture
def bare_run(bare_environment: Path, tmp_path: Path) -> Run:
    """Run a program of the bare environment in an empty folder: `bare_run("vamc", "--help")`."""

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(bare_environment / "bin" / program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean_environment())

    return run
