"""From a checkpoint to the class that defines one rank of it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from vamc_compiler.model.code_files import CodeTarget, auto_map_of, code_path, contract_of
from vamc_compiler.model.config import ModelConfig, model_config_from
from vamc_compiler.model.fields import Fields
from vamc_compiler.model.json_file import read_json
from vamc_compiler.model.norm_head import SETTING as NORM_HEAD_SETTING
from vamc_compiler.model.norm_head import decide_norm_head
from vamc_compiler.model.quantized import check_not_quantized
from vamc_compiler.model.source_code import load_module, load_package
from vamc_compiler.model.supported import check_supported, is_one_of
from vamc_compiler.show import describe_json, printable
from vamc_runtime.errors import UserError

OWN_CONFIG = "config_vacc.json"
"""The configuration that goes with a checkpoint's own modeling file."""
HEAD_TENSOR = "lm_head.weight"
"""Name of the head's weight in every checkpoint that stores one."""
EMBEDDING_TENSOR = "model.embed_tokens.weight"
"""Name of the embedding, which the head may share."""


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint's configuration and the modeling file chosen for it."""

    config: ModelConfig
    directories: tuple[Path, ...]
    """Folders of modeling files, searched in this order."""
    file: str
    """File name of the modeling file."""
    class_name: str
    """Class in that file."""
    label: str
    """What to call the model in messages."""
    warnings: tuple[str, ...] = ()
    is_own_code: bool = False
    """Whether the checkpoint brought the modeling file, which may fail in any way."""

    def load(self, file: str) -> ModuleType:
        """Import one of the modeling files."""
        return load_module(load_package(self.directories), file)

    def with_tensors(self, names: Container[str]) -> ModelSource:
        """The same for a checkpoint that holds these tensors: a head that it stores is used, not the embedding.

        config.json may say `tie_word_embeddings` of a checkpoint whose stored head differs; transformers 5 takes what
        is stored then.
        """
        if not (self.config.tie_word_embeddings and HEAD_TENSOR in names):
            return self
        return replace(self, config=replace(self.config, tie_word_embeddings=False))

    def ignored_tensors(self) -> tuple[str, ...]:
        """Patterns for stored tensors that the modeling file leaves out on purpose, under transformers' name for it."""
        return tuple(getattr(self._find_class(), "_keys_to_ignore_on_load_unexpected", None) or ())

    def model_class(self) -> Callable[[ModelConfig], Any]:
        """The class that builds one rank as an `nn.Module`; imports torch."""
        found = self._find_class()
        if self.is_own_code:
            from vamc_compiler.model.own_code import checked_class

            return checked_class(found, self.directories[0] / self.file)
        factory: Callable[[ModelConfig], Any] = found
        return factory

    def _find_class(self) -> Any:
        found = getattr(self.load(self.file), self.class_name, None)
        if found is None:
            raise UserError(f"{self.file} has no class {self.class_name!r}", fix="check models.yaml or auto_map")
        return found


def _model_type(fields: Fields) -> str:
    """`model_type`, or the middle of `auto_map`'s `modeling_<type>.Class` when the checkpoint leaves it out."""
    target = auto_map_of(fields)
    found = fields.text("model_type", null=True)
    return found or ("" if target is None else target.module.removeprefix("modeling_"))


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


def own_modeling(checkpoint: Path) -> tuple[Fields, CodeTarget] | None:
    """The configuration and class of a modeling file that the checkpoint carries; None where it carries none.

    Raises:
        UserError: its configuration is damaged, or names no modeling file.
    """
    path = checkpoint / OWN_CONFIG
    if not has_own_modeling(checkpoint):
        return None
    fields = Fields(read_json(path, "the configuration of the checkpoint's own modeling file"), path)
    target = auto_map_of(fields)
    if target is None or not target.class_name:
        raise UserError(
            f"{path} names no modeling file",
            expected='"auto_map": {"AutoModelForCausalLM": "modeling_<name>_vacc.<Class>"}',
        )
    return fields, target


def written_for_transformers(checkpoint: Path) -> tuple[Fields, CodeTarget] | None:
    """The same where the file is a class of transformers, as VACC toolchains trace it; None otherwise.

    Raises:
        UserError: see `own_modeling`.
    """
    own = own_modeling(checkpoint)
    if own is None or contract_of(code_path(checkpoint, own[1]), own[1].class_name) != "transformers":
        return None
    return own


def _from_checkpoint_code(
    checkpoint: Path, source_code: Path, fields: Fields, target: CodeTarget, norm_head: bool | None
) -> ModelSource:
    """The modeling file that the checkpoint carries itself (`config_vacc.json` names it in `auto_map`)."""
    config = model_config_from(fields.raw, fields.path)
    if _model_type(fields) == "baichuan":
        config = replace(config, normalize_head=decide_norm_head(checkpoint, fields, norm_head))
    elif norm_head is not None:
        config = replace(config, normalize_head=norm_head)
    file = code_path(checkpoint, target).name
    label = f"{printable(config.model_type or 'model')} (checkpoint's own {printable(file)})"
    return ModelSource(config, (checkpoint, source_code), file, target.class_name, label, is_own_code=True)


def has_own_modeling(checkpoint: Path) -> bool:
    """Whether the checkpoint brings a modeling file of its own."""
    return (checkpoint / OWN_CONFIG).is_file()


def find_model(
    checkpoint: Path, source_code: Path, *, trust_checkpoint_code: bool, norm_head: bool | None = None
) -> ModelSource:
    """Choose the modeling file for a checkpoint directory.

    Args:
        checkpoint: directory with `config.json`.
        source_code: folder with `models.yaml` and the built-in modeling files.
        trust_checkpoint_code: run a modeling file that the checkpoint carries, when there is one.
        norm_head: whether the head's rows are normalised, for a Baichuan that does not say.

    Raises:
        UserError: not a checkpoint directory, one with quantized weights, or a model that no modeling file computes.
    """
    if not checkpoint.is_dir():
        raise UserError(
            f"the checkpoint {checkpoint} is not a directory",
            expected="a Hugging Face checkpoint directory with config.json",
            fix="set frontend.checkpoint (or $VAMC_CHECKPOINT) to where the model lies",
        )
    path = checkpoint / "config.json"
    fields = Fields(read_json(path, "the model configuration"), path)
    check_not_quantized(checkpoint, fields.raw, path)
    own = own_modeling(checkpoint) if has_own_modeling(checkpoint) and trust_checkpoint_code else None
    if own is not None and written_for_transformers(checkpoint) is None:
        check_not_quantized(checkpoint, own[0].raw, own[0].path)
        return _from_checkpoint_code(checkpoint, source_code, *own, norm_head)
    row = _choose_row(source_code, fields)
    config = model_config_from(fields.raw, path)
    check_supported(
        config,
        fields,
        handled={*row.get("where", {}), *row.get("computes", ())},
        rotary=row.get("positions") != "alibi",
        fixed_by_code=bool(row.get("fixed_by_code")),
        label=row["name"],
    )
    if row.get("norm_head"):
        config = replace(config, normalize_head=decide_norm_head(checkpoint, fields, norm_head))
    elif norm_head is not None:
        raise UserError(
            f"{NORM_HEAD_SETTING} is {str(norm_head).lower()}, and {checkpoint} is a {row['name']}",
            expected="the setting for Baichuan models only",
            fix=f"remove {NORM_HEAD_SETTING}",
        )
    warnings = (*_about_own_code(checkpoint, own), *_about_classes(fields, row))
    return ModelSource(config, (source_code,), row["file"], row["class"], row["name"], warnings)


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
                f"{path}: the row {printable(str(row.get('name')))!r} has {', '.join(shown)}",
                expected="rows as the comment at its top describes them",
            )
    return rows


def _choose_row(source_code: Path, fields: Fields) -> Mapping[str, Any]:
    """The first row of models.yaml whose conditions hold.

    Raises:
        UserError: there is none; names the conditions in the way, or the known models.
    """
    rows = _read_rows(source_code / "models.yaml")
    model_type = _model_type(fields)
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
        f"{printable(model_type)!r}, architectures {_architectures(fields)}",
        expected=f"one of\n{known}",
        fix=f"write a modeling file in {source_code} and add a row to models.yaml (docs/architecture.md)",
    )


def _conditions(row: Mapping[str, Any]) -> str:
    conditions = [f"model_type {row['model_type']}"]
    conditions += [f"with {key}" for key in row.get("has", ())]
    conditions += [f"without {key}" for key in row.get("lacks", ())]
    conditions += [f"{key} {values[0]}" for key, values in row.get("where", {}).items()]
    return ", ".join(conditions)


def _architectures(fields: Fields) -> str:
    """`architectures` for a message."""
    return printable(str(fields.raw.get("architectures")))


def _about_own_code(checkpoint: Path, own: tuple[Fields, CodeTarget] | None) -> Iterator[str]:
    """What becomes of a modeling file that the checkpoint carries and that is not compiled."""
    path = checkpoint / OWN_CONFIG
    if own is not None:
        file = code_path(checkpoint, own[1]).name
        yield (
            f"{path} and {file} are written for transformers, not for vamc: the built-in modeling file is compiled, "
            f"and {file} is what it is compared with"
        )
    elif has_own_modeling(checkpoint):
        yield (
            f"{path} and its modeling file are ignored: running a checkpoint's own code needs --trust-checkpoint-code"
        )


def _about_classes(fields: Fields, row: Mapping[str, Any]) -> Iterator[str]:
    """That the checkpoint names other code than the one that its model_type stands for."""
    target = auto_map_of(fields)
    if target is not None and target.module not in row.get("published_code", ()):
        yield (
            f"{fields.path} names code of its own, {printable(target.module)}.py: compiled as {row['name']}; whether "
            "that is the same, a verification with --trust-checkpoint-code shows"
        )
    classes, known = fields.raw.get("architectures"), row.get("architectures")
    if (
        classes is not None
        and known is not None
        and not (isinstance(classes, list) and classes[:1] in [[name] for name in known])
    ):
        yield f"{fields.path} says architectures {_architectures(fields)}: compiled as {row['name']}"
