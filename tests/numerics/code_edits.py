"""Edits of code in this process: a function runs with a text of its source replaced."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

from mutation import SOURCE_CODE, Edit


def _function(place: str) -> FunctionType:
    module, _, path = place.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    found = inspect.unwrap(found)
    assert isinstance(found, FunctionType), f"{place} is a plain function"
    return found


def replaced(text: str, edit: Edit) -> str:
    """The text with the edit made; it must fit."""
    assert text.count(edit.right) == 1, f"the mutation no longer fits {edit.place}: {edit.right!r}"
    return text.replace(edit.right, edit.wrong)


def _edited_function(function: FunctionType, edit: Edit) -> FunctionType:
    """The function's own source with the edit, compiled in its own module."""
    text = textwrap.dedent(replaced(inspect.getsource(function), edit))
    code = compile(text, f"<mutated {edit.place}>", "exec")  # annotations stay texts, as in this file
    defined: dict[str, Any] = {}
    exec(code, function.__globals__, defined)
    edited_function = inspect.unwrap(defined[function.__name__])
    assert isinstance(edited_function, FunctionType)
    return edited_function


def _forget_kernels() -> None:
    """Kernels are built once per process: not when the code that builds them has changed."""
    for name, module in list(sys.modules.items()):
        if name.startswith("vamc_compiler.kernels"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


@contextlib.contextmanager
def edited(edits: Sequence[Edit]) -> Iterator[None]:
    """Replace the code of functions; whoever has imported them by name sees it too."""
    changes = [
        (function, _edited_function(function, edit).__code__)
        for edit in edits
        if not edit.place.startswith(SOURCE_CODE)
        for function in [_function(edit.place)]
    ]
    kept = [(function, function.__code__) for function, _ in changes]
    _forget_kernels()
    try:
        for function, code in changes:
            function.__code__ = code
        yield
    finally:
        for function, code in kept:
            function.__code__ = code
        _forget_kernels()
