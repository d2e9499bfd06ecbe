"""The wheel holds the two packages and the modeling files as data, and asks for no more than it needs."""

from __future__ import annotations

import configparser
import email
import email.message
import importlib.metadata
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging_tools import REPOSITORY

THIN = {"apache-tvm-ffi", "numpy", "tokenizers", "sentencepiece", "jinja2", "rich"}


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def read(wheel: Path, ending: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(ending))
        return archive.read(name).decode()


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    return email.message_from_string(read(wheel, ".dist-info/METADATA"))


def requirements(metadata: email.message.Message, extra: str = "") -> dict[str, Requirement]:
    """What an extra asks for by name; without one, what every installation asks for."""
    found = {}
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        condition = str(requirement.marker or "")
        if (f'extra == "{extra}"' in condition) if extra else ("extra" not in condition):
            found[requirement.name.lower()] = requirement
    return found


def exact_version(requirement: Requirement) -> str | None:
    specifiers = list(requirement.specifier)
    return specifiers[0].version if len(specifiers) == 1 and specifiers[0].operator == "==" else None


DATA = (".txt", ".css", ".js")
"""What a package may hold besides modules: the sample text, and what a report's page is made of."""


def package_files(folder: Path) -> set[str]:
    """Every module, data file, and the mark that the package has types."""
    data = [path for path in folder.rglob("*") if path.suffix in DATA]
    return {str(path.relative_to(folder.parent)) for path in (*folder.rglob("*.py"), *data, folder / "py.typed")}


@pytest.mark.parametrize("package", ["compiler/vamc_compiler", "runtime/vamc_runtime"])
def test_every_module_of_a_package_is_in(names: list[str], package: str) -> None:
    expected = package_files(REPOSITORY / package)
    assert len(expected) > 10
    assert {name for name in names if name.startswith(f"{Path(package).name}/")} == expected


def test_modeling_files_are_data_beside_the_packages(wheel: Path, names: list[str]) -> None:
    folder = REPOSITORY / "source_code"
    expected = {path.name for path in folder.iterdir() if path.suffix in (".py", ".yaml")}
    shipped = {name.partition(".data/data/share/vamc/source_code/")[2] for name in names if "share/" in name}
    assert shipped == expected
    rows = yaml.safe_load(read(wheel, "source_code/models.yaml"))
    files = {row["file"] for row in rows}
    assert files and files <= shipped, "every file that models.yaml names is there"
    assert any(name.startswith("modeling_") for name in files)


def test_nothing_else_is_in(wheel: Path, names: list[str]) -> None:
    version = importlib.metadata.version("vamc")
    places = (
        "vamc_compiler/",
        "vamc_runtime/",
        f"vamc-{version}.dist-info/",
        f"vamc-{version}.data/data/share/vamc/source_code/",
    )
    assert [name for name in names if not name.startswith(places)] == []
    bad = ("test", "checkpoint", "__pycache__", "build_in", ".so", ".bin", ".safetensors")
    modules = {  # named like what must not be there: they read checkpoints and test CPUs
        "vamc_compiler/weights/checkpoint.py",
        "vamc_runtime/self_test.py",
        "vamc_runtime/text/checkpoint_files.py",
    }
    assert [name for name in names if name not in modules and any(word in name.lower() for word in bad)] == []
    assert [
        name for name in names if name.startswith(("vamc_compiler/", "vamc_runtime/")) and "source_code/" in name
    ] == []
    assert wheel.stat().st_size < 1 << 20


def test_command(wheel: Path) -> None:
    entry_points = configparser.ConfigParser()
    entry_points.read_string(read(wheel, "entry_points.txt"))
    assert dict(entry_points["console_scripts"]) == {"vamc": "vamc_runtime.cli:main"}


def test_base_dependencies_are_thin(metadata: email.message.Message) -> None:
    # What a machine that only runs needs. A new one is a decision, and slows every installation.
    assert set(requirements(metadata)) == THIN


def test_extras(metadata: email.message.Message) -> None:
    assert {"compiler", "mpi", "dev"} <= set(metadata.get_all("Provides-Extra", []))
    assert {"mpi4py", "mpich"} <= set(requirements(metadata, "mpi"))
    assert {"pytest", "hypothesis", "ruff", "mypy"} <= set(requirements(metadata, "dev"))
    compiler = requirements(metadata, "compiler")
    needed = {"torch", "apache-tvm", "onnx", "onnxscript", "onnxsim", "onnxruntime", "transformers", "accelerate"}
    assert needed | {"pyyaml", "safetensors"} <= set(compiler)


def test_pins(metadata: email.message.Message) -> None:
    compiler = requirements(metadata, "compiler")
    assert str(compiler["torch"].specifier) == "==2.13.*"
    for requirement in (compiler["apache-tvm"], requirements(metadata)["apache-tvm-ffi"]):
        # The binary interface moves: what the tests run with is what users get.
        assert exact_version(requirement) == importlib.metadata.version(requirement.name)


def test_python_versions(metadata: email.message.Message) -> None:
    assert metadata["Requires-Python"] in (">=3.10,<3.13", "<3.13,>=3.10")
    assert metadata["License-Expression"] == "Apache-2.0"
