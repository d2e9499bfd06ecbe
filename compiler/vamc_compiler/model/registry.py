"""From a checkpoint to the class that defines one rank of it."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from vamc_compiler.model.config import ModelConfig, model_config_from, read_json
from vamc_compiler.model.source_code import load_module, load_package
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
        return tuple(getattr(self.model_class(), "_keys_to_ignore_on_load_unexpected", None) or ())

    def model_class(self) -> Callable[[ModelConfig], Any]:
        """The class that builds one rank as an `nn.Module`; imports torch."""
        module = self.load(self.file)
        found = getattr(module, self.class_name, None)
        if found is None:
            raise UserError(f"{self.file} has no class {self.class_name!r}", fix="check models.yaml or auto_map")
        factory: Callable[[ModelConfig], Any] = found
        return factory


def _matches(row: Mapping[str, Any], raw: Mapping[str, Any], model_type: str) -> bool:
    return (
        row["model_type"] == model_type
        and all(raw.get(key) is not None for key in row.get("has", ()))
        and all(raw.get(key) is None for key in row.get("lacks", ()))
        and all(raw.get(key, values[0]) in values for key, values in row.get("where", {}).items())
    )


def _model_type(raw: Mapping[str, Any]) -> str:
    """`model_type`, or the middle of `auto_map`'s `modeling_<type>.Class` when the checkpoint leaves it out."""
    mapped = str((raw.get("auto_map") or {}).get("AutoModelForCausalLM", ""))
    return str(raw.get("model_type") or mapped.partition(".")[0].removeprefix("modeling_"))


def _from_checkpoint_code(checkpoint: Path, source_code: Path) -> ModelSource:
    """The modeling file that the checkpoint carries itself (`config_vacc.json` names it in `auto_map`)."""
    path = checkpoint / OWN_CONFIG
    raw = read_json(path, "the configuration of the checkpoint's own modeling file")
    module, _, class_name = str((raw.get("auto_map") or {}).get("AutoModelForCausalLM", "")).partition(".")
    if not class_name:
        raise UserError(
            f"{path} names no modeling file",
            expected='"auto_map": {"AutoModelForCausalLM": "modeling_<name>_vacc.<Class>"}',
        )
    label = f"{raw.get('model_type', 'model')} (checkpoint's own {module}.py)"
    directories = (checkpoint, source_code)
    return ModelSource(model_config_from(raw, path), directories, f"{module}.py", class_name, label)


def has_own_modeling(checkpoint: Path) -> bool:
    """Whether the checkpoint brings a modeling file of its own."""
    return (checkpoint / OWN_CONFIG).is_file()


def find_model(checkpoint: Path, source_code: Path, *, trust_checkpoint_code: bool) -> ModelSource:
    """Choose the modeling file for a checkpoint directory.

    Args:
        checkpoint: directory with `config.json`.
        source_code: folder with `models.yaml` and the built-in modeling files.
        trust_checkpoint_code: run a modeling file that the checkpoint carries, when there is one.

    Raises:
        UserError: not a checkpoint directory, or an architecture that no modeling file covers.
    """
    if not checkpoint.is_dir():
        raise UserError(
            f"the checkpoint {checkpoint} is not a directory",
            expected="a Hugging Face checkpoint directory with config.json",
            fix="set frontend.checkpoint (or $VAMC_CHECKPOINT) to where the model lies",
        )
    warnings: tuple[str, ...] = ()
    if has_own_modeling(checkpoint):
        if trust_checkpoint_code:
            return _from_checkpoint_code(checkpoint, source_code)
        warnings = (
            f"{checkpoint / OWN_CONFIG} and its modeling file are ignored: "
            "running a checkpoint's own code needs --trust-checkpoint-code",
        )
    path = checkpoint / "config.json"
    raw = read_json(path, "the model configuration")
    rows = yaml.safe_load((source_code / "models.yaml").read_text(encoding="utf-8"))
    model_type = _model_type(raw)
    for row in rows:
        if _matches(row, raw, model_type):
            config = model_config_from(raw, path)
            return ModelSource(config, (source_code,), row["file"], row["class"], row["name"], warnings)
    known = "\n".join(f"  - {row['name']} ({_conditions(row)})" for row in rows)
    raise UserError(
        f"{path} describes an architecture that no modeling file covers: model_type {model_type!r}, "
        f"architectures {raw.get('architectures')}",
        expected=f"one of\n{known}",
        fix=f"write a modeling file in {source_code} and add a row to models.yaml (docs/architecture.md)",
    )


def _conditions(row: Mapping[str, Any]) -> str:
    conditions = [f"model_type {row['model_type']}"]
    conditions += [f"with {key}" for key in row.get("has", ())]
    conditions += [f"without {key}" for key in row.get("lacks", ())]
    conditions += [f"{key} {values[0]}" for key, values in row.get("where", {}).items()]
    return ", ".join(conditions)
