"""Every command in a document is one that exists: options, targets of make, and files of the repository."""

from __future__ import annotations

import re
import shlex

import pytest
from documents import DOCUMENTS, REPOSITORY, read_document, shell_commands, vamc_arguments

from vamc_runtime.cli import build_parser

_PATHS = re.compile(r"\b(?:build_in|benchmarks|docs|source_code|tests)/[\w./-]*\w")
# What a reader makes first, or would write.
_NOT_IN_THE_REPOSITORY = {"build_in/build/my.yaml"}


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_vamc_commands_parse(name: str) -> None:
    for command in shell_commands(read_document(name)):
        arguments = vamc_arguments(command)
        if arguments is not None:
            try:
                build_parser().parse_args(arguments)
            except SystemExit as error:
                assert error.code == 0, f"{name}: {command}"  # --help and --version


@pytest.mark.parametrize("name", DOCUMENTS)
def test_targets_of_make_exist(name: str) -> None:
    targets = _make_targets()
    for command in shell_commands(read_document(name)):
        words = shlex.split(command)
        if words[0] == "make":
            wanted = [word for word in words[1:] if "=" not in word]
            assert set(wanted) <= targets, f"{name}: {command}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_in_commands_exist(name: str) -> None:
    for command in shell_commands(read_document(name)):
        for path in _PATHS.findall(command):
            assert path in _NOT_IN_THE_REPOSITORY or (REPOSITORY / path).exists(), f"{name}: {command}"


def test_the_documents_hold_commands() -> None:
    """So that a changed format does not empty the tests above."""
    commands = [command for name in DOCUMENTS for command in shell_commands(read_document(name))]
    assert sum(vamc_arguments(command) is not None for command in commands) > 20
    assert sum(command.startswith("make ") for command in commands) > 5


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("vamc check a.yaml", ["check", "a.yaml"]),
        ("VAMC_CHECKPOINT=/m .venv/bin/vamc compile a.yaml --json | jq .path", ["compile", "a.yaml", "--json"]),
        ("mpiexec -n 2 vamc run x --prompt 'a b'", ["run", "x", "--prompt", "a b"]),
        ("pip install vamc", None),
        ("ls vamc_runtime", None),
    ],
)
def test_what_counts_as_a_command(command: str, arguments: list[str] | None) -> None:
    assert vamc_arguments(command) == arguments
