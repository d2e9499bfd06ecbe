"""Loading modeling files by path, without touching `sys.path`.

The files of `source_code/` form one package under a private name that carries a digest of their content: relative
imports, dataclasses, `inspect.getsource` and tracebacks work, and an edited file is never mistaken for an old one.
A checkpoint that brings its own modeling files is searched first, the built-in files second, so it can build on them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from vamc_runtime.errors import UserError
from vamc_runtime.resources import raise_lack


def find_source_code(config_directory: Path) -> Path:
    """The `source_code` folder: above the build config, else of this repository, else as installed.

    Raises:
        UserError: none of them exists.
    """
    repository = Path(__file__).resolve().parents[3]
    installed = Path(sys.prefix) / "share" / "vamc"
    above = [config_directory.resolve(), *config_directory.resolve().parents]
    for directory in (*above, repository, installed):
        if (directory / "source_code" / "models.yaml").is_file():
            return directory / "source_code"
    raise UserError(
        f"no source_code folder with models.yaml above {config_directory}, in {repository} or in {installed}",
        expected="the folder of modeling files that ships with vamc",
        fix="reinstall vamc, or keep source_code/ in a folder above the build config",
    )


def source_files(directories: Sequence[Path]) -> list[Path]:
    """Every Python file of the given folders, in a stable order."""
    return [path for directory in directories for path in sorted(directory.glob("*.py"))]


def load_package(directories: Sequence[Path]) -> str:
    """Make the modeling files of `directories` importable as one package and return its private name."""
    digest = hashlib.sha256()
    for directory in directories:
        digest.update(str(directory.resolve()).encode())
    for path in source_files(directories):
        digest.update(str(path.resolve()).encode())
        digest.update(path.read_bytes())
    name = f"_vamc_source_code_{digest.hexdigest()[:16]}"
    if name not in sys.modules:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(directory.resolve()) for directory in directories]
        sys.modules[name] = importlib.util.module_from_spec(spec)
        importlib.invalidate_caches()  # files may have come since Python last listed the folders
    return name


def import_file(package: str, name: str) -> ModuleType:
    """Import the file `name`.py of a package from `load_package`; whatever it raises comes through.

    No byte code is written: Python matches it by size and whole second, so a quick edit would run as the old text.
    """
    previous = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        return importlib.import_module(f"{package}.{name}")
    finally:
        sys.dont_write_bytecode = previous


def load_module(package: str, file: str) -> ModuleType:
    """Import `file` (`modeling_x_vacc.py`) of a package from `load_package`.

    Raises:
        UserError: the file does not exist or fails to import.
    """
    if importlib.util.find_spec(f"{package}.{Path(file).stem}") is None:
        where = ", ".join(sys.modules[package].__path__)
        raise UserError(f"there is no modeling file {file!r} in {where}", fix="check models.yaml or auto_map")
    try:
        return import_file(package, Path(file).stem)
    except UserError:
        raise
    except Exception as error:
        raise_lack(error)
        raise UserError(
            f"the modeling file {file!r} fails to import: {type(error).__name__}: {error}",
            fix="run it through python to see the line; it may use whatever the files beside it and vamc offer",
        ) from error
