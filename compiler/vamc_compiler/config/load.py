"""Read a build config: file, overrides, variables, types, rules, warnings.

No work starts before all of it is right.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vamc_runtime.errors import UserError, nearest_name
from vamc_runtime.git_lfs import refuse_lfs_pointer

from .bind import Binder
from .convert import Surroundings
from .document import parse_yaml
from .effects import find_warnings
from .overrides import apply_overrides
from .problems import Place, RefusalError, as_error
from .rules import find_contradictions
from .schema import BuildConfig
from .settings import setting_sources
from .tree import SectionTree, describe

MAX_FILE_BYTES = 256 << 10
"""A hundred times the size of a build config; what is larger is another file."""
_EXPECTED_FILE = "a build config: YAML with the keys name, frontend and backend"


def load_config(path: Path, overrides: Sequence[str] = ()) -> BuildConfig:
    """The build config in a YAML file.

    Args:
        path: the YAML file.
        overrides: `section.key=value` texts, applied in order over the file.

    Raises:
        UserError: all mistakes in the file and the overrides, each with its place.
    """
    file = str(path)
    text = _read_text(path)
    try:
        tree, problems = parse_yaml(text, lambda line, column: Place(file, line + 1, column + 1))
    except RefusalError as refusal:
        raise as_error(file, [refusal.as_problem("")]) from refusal
    if tree is None:
        raise UserError(f"{file}: the file is empty", expected=_EXPECTED_FILE)
    if not isinstance(tree, SectionTree):
        raise UserError(f"{tree.place}: found {describe(tree)}", expected=_EXPECTED_FILE)

    root, override_problems = apply_overrides(tree, overrides)
    current_dir = _current_dir()
    source_path = current_dir / path
    binder = Binder(Surroundings(config_dir=source_path.parent, current_dir=current_dir, environment=os.environ))
    config = binder.config(root, source_path)
    problems += [*override_problems, *binder.problems, *find_contradictions(binder.values, binder.places)]
    if problems or config is None:
        raise as_error(file, problems)
    return replace(
        config,
        warnings=tuple(find_warnings(binder.values, binder.places)),
        setting_sources=setting_sources(config, binder.places),
    )


def _current_dir() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        found = f"the current directory cannot be used: {error.strerror}"
        raise UserError(found, fix="change to a directory that exists") from error


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:  # what is read may be a pipe
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        if path.is_symlink():
            found = f"{path}: a link to {path.readlink()}, which does not exist"
            raise UserError(found, expected=_EXPECTED_FILE) from error
        raise UserError(f"{path}: no such file", expected=_EXPECTED_FILE, fix=_similar_file(path)) from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a directory", expected=_EXPECTED_FILE, fix="name a file in it") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}", expected=_EXPECTED_FILE) from error
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{path}: more than {MAX_FILE_BYTES} bytes", expected=_EXPECTED_FILE)
    refuse_lfs_pointer(path, data, expected=_EXPECTED_FILE)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line_start = data.rfind(b"\n", 0, error.start) + 1
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[line_start : error.start].decode("utf-8-sig", "replace")) + 1
        place = Place(str(path), line, column)
        found = f"{place}: not UTF-8: byte 0x{data[error.start]:02x}"
        raise UserError(found, expected=_EXPECTED_FILE, fix="save the file as UTF-8") from error


def _similar_file(path: Path) -> str:
    neighbours = [other.name for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    nearest = nearest_name(path.name, neighbours)
    return f"did you mean {path.parent / nearest}?" if nearest else ""
