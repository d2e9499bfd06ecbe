"""What the modeling code of a checkpoint says about itself, read and never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vamc_compiler.model.fields import Fields

MODEL = "AutoModelForCausalLM"
"""The Auto class whose entry in `auto_map` names the model."""
Contract = Literal["step", "transformers", "unknown"]
_MAX_CODE_BYTES = 1 << 20


@dataclass(frozen=True)
class CodeTarget:
    """An entry of `auto_map`: `file.Class`, or `owner/name--file.Class` for one of another repository."""

    module: str
    class_name: str


def auto_map_of(fields: Fields) -> CodeTarget | None:
    """The class that config.json names for the model; None where it names none.

    Raises:
        UserError: `auto_map` is no object, or its entry no text.
    """
    auto_map = fields.section("auto_map")
    name = None if auto_map is None else auto_map.text(MODEL, null=True)
    if not name:
        return None
    module, _, class_name = name.rpartition("--")[2].partition(".")
    return CodeTarget(module, class_name)


def code_path(directory: Path, target: CodeTarget) -> Path:
    """Where the file of a target lies; nothing outside the folder is meant by any name."""
    return directory / f"{Path(target.module).name}.py"


def assigned_classes(path: Path, class_name: str, attribute: str) -> set[str]:
    """The classes whose instances a class assigns to `self.<attribute>`, by their last names.

    Where the class itself assigns none, those of the whole file; a value that is no call counts as "". Empty where the
    file is missing or is not Python.
    """
    tree = _parse(path)
    if tree is None:
        return set()
    own = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == class_name]
    for root in [*own, tree]:
        found = set(_assigned(root, attribute))
        if found:
            return found
    return set()


def contract_of(path: Path, class_name: str) -> Contract:
    """For whom the class of a modeling file was written: the compiler (one step over cache pages), or transformers.

    Unknown where the file does not show it: it is missing, no Python, or builds on classes of other files.
    """
    tree = _parse(path)
    if tree is None:
        return "unknown"
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    todo, seen = [class_name], set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in classes:
            if name.endswith(("PreTrainedModel", "GenerationMixin")):
                return "transformers"
            continue
        arguments = set(_arguments_of(classes[name], "forward"))
        if "page_table" in arguments:
            return "step"
        if arguments & {"attention_mask", "past_key_values"}:
            return "transformers"
        todo += [last for base in classes[name].bases if (last := _last_name(base))]
    return "unknown"


def _parse(path: Path) -> ast.Module | None:
    try:
        if not path.is_file() or path.stat().st_size > _MAX_CODE_BYTES:
            return None
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _assigned(root: ast.AST, attribute: str) -> Iterator[str]:
    for node in ast.walk(root):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        if any(_is_own(target, attribute) for target in targets):
            value = getattr(node, "value", None)
            yield _last_name(value.func) if isinstance(value, ast.Call) else ""


def _is_own(target: ast.expr, attribute: str) -> bool:
    """Whether an expression is `self.<attribute>`."""
    return (
        isinstance(target, ast.Attribute)
        and target.attr == attribute
        and isinstance(target.value, ast.Name)
        and target.value.id == "self"
    )


def _last_name(expression: ast.expr) -> str:
    """`Linear` of `torch.nn.Linear`."""
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


def _arguments_of(node: ast.ClassDef, method: str) -> Iterator[str]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == method:
            yield from (argument.arg for argument in (*item.args.args, *item.args.kwonlyargs))
