"""Our own Python processes import nothing from the current directory, whatever lies there.

The folder they are started in holds a file for every module of the standard library and for every installed package,
each of which notes that it ran.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vamc_runtime.child_python import python_command, python_environment

POOL = """
import sys
from concurrent.futures import ProcessPoolExecutor
from vamc_runtime.spawning import spawn_context

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=spawn_context()) as pool:
        print(list(pool.map(abs, [-1, 2, -3])))
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downloads")
    names = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions(), "sitecustomize", "usercustomize"}
    for name in names:
        if name.isidentifier():
            (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'a').write('{name} ')\n")
    return folder


@pytest.fixture
def run(hostile: Path) -> object:
    def start(command: list[str], environment: dict[str, str]) -> str:
        (hostile / "ran").unlink(missing_ok=True)
        done = subprocess.run(command, cwd=hostile, env=environment, capture_output=True, text=True, timeout=120)
        ran = (hostile / "ran").read_text() if (hostile / "ran").exists() else ""
        assert not ran, f"ran as code: {ran}"
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start


PATHS = [None, "", ":/nowhere", "/nowhere:", ":", "/nowhere::/elsewhere"]


@pytest.mark.parametrize("path", PATHS)
def test_code(run: object, path: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    code = "import json, socket, numpy, random, mpi4py; print(sys.argv[1:], '' in sys.path)"
    assert run([*python_command(code), "a", "-b"], python_environment()) == "['a', '-b'] False\n"  # type: ignore[operator]


def test_the_folder_would_be_imported_from(hostile: Path) -> None:
    """The test of this test: what `python -c` does by itself."""
    subprocess.run([sys.executable, "-c", "import json"], cwd=hostile, capture_output=True, timeout=120)
    assert "json" in (hostile / "ran").read_text()


def test_processes_of_multiprocessing(run: object, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(POOL)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    assert run([sys.executable, str(script)], environment) == "[1, 2, 3]\n"  # type: ignore[operator]


def test_a_users_folders_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_the_user.py").write_text("x = 5")
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path}:")
    done = subprocess.run(
        python_command("import of_the_user; print(of_the_user.x)"),
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "5\n", done.stderr
    assert python_environment(X="1")["X"] == "1"
