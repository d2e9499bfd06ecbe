"""The rows of source_code/models.yaml: which modeling file computes which config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from vamc_compiler.model.code_files import auto_map_of
from vamc_compiler.model.fields import Fields
from vamc_compiler.model.supported import is_one_of
from vamc_compiler.show import describe_json, one_line
from vamc_runtime.errors import UserError


def model_type_of(fields: Fields) -> str:
    """`model_type`, or the middle of `auto_map`'s `modeling_<type>.Class` when the checkpoint leaves it out."""
    target = auto_map_of(fields)
    found = fields.text("model_type", null=True)
    return found or ("" if target is None else target.module.removeprefix("modeling_"))


def choose_row(source_code: Path, fields: Fields) -> Mapping[str, Any]:
    """The first row of models.yaml whose conditions hold.

    Raises:
        UserError: there is none; names the conditions in the way, or the known models.
    """
    rows = _read_rows(source_code / "models.yaml")
    model_type = model_type_of(fields)
    failures = [(row, list(_failures(row, fields))) for row in rows if row["model_type"] == model_type]
    for row, problems in failures:
        if not problems:
            return row
    if failures:
        nearest, problems = min(failures, key=lambda item: len(item[1]))
        shown = "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(
            f"{fields.path} has the model_type {model_type}, and the modeling file of {nearest['name']} "
            f"does not compute this one:{shown}",
            expected=_conditions(nearest),
            fix=f"write a modeling file in {source_code} and add a row to models.yaml (docs/architecture.md)",
        )
    known = "\n".join(f"  - {row['name']} ({_conditions(row)})" for row in rows)
    raise UserError(
        f"{fields.path} describes an architecture that no modeling file covers: model_type "
        f"{one_line(model_type)!r}, architectures {architectures_of(fields)}",
        expected=f"one of\n{known}",
        fix=f"write a modeling file in {source_code} and add a row to models.yaml (docs/architecture.md)",
    )


def _read_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of models.yaml, which users edit.

    Raises:
        UserError: it is no list of rows with what each needs.
    """
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}", expected="a YAML list of models") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds no list of models", expected="a YAML list, one section for each model")
    for row in rows:
        missing = [key for key in ("name", "model_type", "file", "class") if not isinstance(row.get(key), str)]
        lists = [key for key in ("has", "lacks", "computes") if not isinstance(row.get(key, []), list)]
        where = row.get("where", {})
        if not isinstance(where, dict) or not all(isinstance(values, list) and values for values in where.values()):
            lists.append("where")
        if missing or lists:
            shown = [f"no text for {key}" for key in missing] + [f"no list for {key}" for key in lists]
            raise UserError(
                f"{path}: the row {one_line(str(row.get('name')))!r} has {', '.join(shown)}",
                expected="rows as the comment at its top describes them",
            )
    return rows


def _failures(row: Mapping[str, Any], fields: Fields) -> Iterator[str]:
    """The conditions of a row that a config.json does not fulfil, in words."""
    raw = fields.raw
    for key in row.get("has", ()):
        if not fields.has(key, null=True):
            yield f"it has no {key}"
    for key in row.get("lacks", ()):
        if fields.has(key, null=True):
            yield f"it has {key} ({describe_json(raw[key])})"
    for key, values in row.get("where", {}).items():
        if key in raw and not is_one_of(raw[key], values):
            allowed = " or ".join(describe_json(value).partition(" (")[0] for value in values)
            yield f"{key} is {describe_json(raw[key])}, not {allowed}"


def _conditions(row: Mapping[str, Any]) -> str:
    conditions = [f"model_type {row['model_type']}"]
    conditions += [f"with {key}" for key in row.get("has", ())]
    conditions += [f"without {key}" for key in row.get("lacks", ())]
    conditions += [f"{key} {values[0]}" for key, values in row.get("where", {}).items()]
    return ", ".join(conditions)


def architectures_of(fields: Fields) -> str:
    """`architectures` for a message."""
    found = fields.raw.get("architectures")
    is_plain = isinstance(found, list) and all(isinstance(name, str) for name in found)
    return one_line(str(found)) if is_plain else describe_json(found)
