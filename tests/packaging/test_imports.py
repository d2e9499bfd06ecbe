"""Which package imports which, read from the source: the runtime stays thin and imports never point upward."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging_tools import REPOSITORY

RUNTIME = REPOSITORY / "runtime" / "vamc_runtime"
COMPILER = REPOSITORY / "compiler" / "vamc_compiler"

# Modules of the base dependencies; everything else that the runtime imports must come with Python.
RUNTIME_MAY_IMPORT = {"numpy", "tvm_ffi", "tokenizers", "sentencepiece", "jinja2", "rich", "vamc_runtime"}
# Only inside functions: installed with an extra.
RUNTIME_MAY_IMPORT_LATE = {"mpi4py": "ranks/", "vamc_compiler": "cli.py"}
# What the compiler shares with the runtime: the manifest and the certificate that both know, strict readers of JSON and
# safetensors, errors and how they are shown, what processes and the machine may run out of, and names of CPU features.
COMPILER_MAY_IMPORT = {
    "vamc_runtime.amx_check",
    "vamc_runtime.certificate",
    "vamc_runtime.console",
    "vamc_runtime.errors",
    "vamc_runtime.file_content",
    "vamc_runtime.git_lfs",
    "vamc_runtime.machine",
    "vamc_runtime.manifest",
    "vamc_runtime.printable",
    "vamc_runtime.ranks.lifeline.die_with_parent",
    "vamc_runtime.resources",
    "vamc_runtime.safetensors_file",
    "vamc_runtime.spawning",
    "vamc_runtime.strict_json",
    "vamc_runtime.supervise.Journal",
}
# Verification runs a runstream as the runtime does, watches it, and writes the certificate that the runtime reads; it
# cuts its text into tokens as the runtime does. No engine, no scheduler: it plans its own steps.
VERIFICATION = "verify/"
VERIFICATION_MAY_IMPORT = {
    "vamc_runtime.executor",
    "vamc_runtime.ffi",
    "vamc_runtime.ranks.open",
    "vamc_runtime.ranks.options",
    "vamc_runtime.ranks.remote.find_mpiexec",
    "vamc_runtime.runstream",
    "vamc_runtime.stored_path",
    "vamc_runtime.text.tokenizer",
}
# The text of a build is read and tried as the runtime does it.
TEXT = "tokenizer/"
TEXT_MAY_IMPORT = {"vamc_runtime.generation_config", "vamc_runtime.stored_path", "vamc_runtime.text"}


@dataclass(frozen=True)
class Import:
    """One imported module."""

    file: str
    line: int
    module: str
    """Dotted; for `from package import name`, package.name."""
    late: bool
    """Inside a function."""

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports_in(source: str, file: str) -> Iterator[Import]:
    """Every import statement, those for type checkers included."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        late = id(node) in inside
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, late)
        elif isinstance(node, ast.ImportFrom) and not node.level:  # a relative import stays in its package
            for alias in node.names:
                yield Import(file, node.lineno, f"{node.module}.{alias.name}", late)


def imports_of(package: Path) -> list[Import]:
    files = sorted(package.rglob("*.py"))
    assert len(files) > 10
    return [
        found
        for file in files
        for found in imports_in(file.read_text(encoding="utf-8"), str(file.relative_to(package)))
    ]


def not_thin(found: Import) -> bool:
    if found.root in sys.stdlib_module_names | RUNTIME_MAY_IMPORT:
        return False
    place = RUNTIME_MAY_IMPORT_LATE.get(found.root)
    return not (place and found.late and found.file.startswith(place))


def points_upward(found: Import) -> bool:
    allowed = COMPILER_MAY_IMPORT | (VERIFICATION_MAY_IMPORT if found.file.startswith(VERIFICATION) else set())
    allowed |= TEXT_MAY_IMPORT if found.file.startswith(TEXT) else set()
    shared = any(found.module == name or found.module.startswith(f"{name}.") for name in allowed)
    return found.root == "vamc_runtime" and not shared


def test_the_runtime_imports_nothing_heavy() -> None:
    imports = imports_of(RUNTIME)
    assert any(found.root == "numpy" for found in imports), "imports are found at all"
    assert [str(found) for found in imports if not_thin(found)] == []


def test_the_compiler_shares_only_a_little_with_the_runtime() -> None:
    imports = imports_of(COMPILER)
    assert any(found.module.startswith("vamc_runtime.manifest") for found in imports)
    assert [str(found) for found in imports if points_upward(found)] == []


@pytest.mark.parametrize(
    ("file", "source", "refused"),
    [
        ("engine.py", "import numpy as np, json", False),
        ("engine.py", "import torch", True),
        ("engine.py", "def f():\n    import torch.nn", True),
        ("engine.py", "from tvm import relax", True),
        ("engine.py", "try:\n    import yaml\nexcept ImportError: pass", True),
        ("engine.py", "def f():\n    from vamc_compiler import commands", True),
        ("cli.py", "def f():\n    from vamc_compiler import commands", False),
        ("cli.py", "from vamc_compiler import commands", True),
        ("ranks/mpi.py", "class A:\n    def f(self):\n        from mpi4py import MPI", False),
        ("ranks/mpi.py", "from mpi4py import MPI", True),
        ("engine.py", "def f():\n    from mpi4py import MPI", True),
    ],
)
def test_this_test_sees_what_it_forbids(file: str, source: str, refused: bool) -> None:
    assert any(not_thin(found) for found in imports_in(source, file)) == refused


@pytest.mark.parametrize(
    ("file", "source", "refused"),
    [
        ("x.py", "from vamc_runtime import manifest", False),
        ("x.py", "from vamc_runtime.errors import UserError", False),
        ("x.py", "from vamc_runtime import LLM", True),
        ("x.py", "def f():\n    import vamc_runtime.engine", True),
        ("x.py", "from vamc_runtime.runstream import open_runstream", True),
        ("x.py", "from vamc_runtime.manifest_of_old import x", True),
        ("verify/x.py", "from vamc_runtime.runstream import open_runstream", False),
        ("verify/x.py", "from vamc_runtime.errors import UserError", False),
        ("verify/x.py", "from vamc_runtime.engine import LLM", True),
        ("verify/x.py", "from vamc_runtime.ranks.remote import RemoteExecutor", True),
        ("verify.py", "from vamc_runtime.executor import StepArguments", True),
    ],
)
def test_this_test_sees_what_points_upward(file: str, source: str, refused: bool) -> None:
    assert any(points_upward(found) for found in imports_in(source, file)) == refused
