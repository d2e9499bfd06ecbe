"""From a checkpoint to the class that defines one rank of it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from vamc_compiler.model.code_files import CodeTarget, auto_map_of, code_path, contract_of
from vamc_compiler.model.config import ModelConfig, model_config_from
from vamc_compiler.model.fields import Fields
from vamc_compiler.model.json_file import read_json
from vamc_compiler.model.norm_head import SETTING as NORM_HEAD_SETTING
from vamc_compiler.model.norm_head import decide_norm_head
from vamc_compiler.model.quantized import check_not_quantized
from vamc_compiler.model.rows import architectures_of, choose_row, model_type_of
from vamc_compiler.model.source_code import load_module, load_package
from vamc_compiler.model.supported import check_supported
from vamc_compiler.show import one_line
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
    if target is None or not (target.module.isidentifier() and target.class_name.isidentifier()):
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
    if model_type_of(fields) == "baichuan":
        config = replace(config, normalize_head=decide_norm_head(checkpoint, fields, norm_head))
    elif norm_head is not None:
        config = replace(config, normalize_head=norm_head)
    file = code_path(checkpoint, target).name
    label = f"{one_line(config.model_type or 'model')} (checkpoint's own {one_line(file)})"
    return ModelSource(config, (checkpoint, source_code), file, target.class_name, label, is_own_code=True)


def has_own_modeling(checkpoint: Path) -> bool:
    """Whether the checkpoint brings a modeling file of its own."""
    return (checkpoint / OWN_CONFIG).is_file()


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a name that is too long, a folder above that may not be read
        raise UserError(f"the checkpoint {one_line(str(path))} cannot be read: {error.strerror}") from error


def _check_no_adapter(checkpoint: Path) -> None:
    """Refuse what transformers would change the weights by, or that holds no whole model."""
    path = checkpoint / "adapter_config.json"
    if path.is_file():
        raise UserError(
            f"{checkpoint} holds an adapter ({path.name}), which transformers with PEFT adds to the weights",
            expected="the weights of a whole model",
            fix="merge it into its model (PEFT: merge_and_unload) and save that, or remove the file",
        )


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
    if not _is_directory(checkpoint):
        raise UserError(
            f"the checkpoint {checkpoint} is not a directory",
            expected="a Hugging Face checkpoint directory with config.json",
            fix="set frontend.checkpoint (or $VAMC_CHECKPOINT) to where the model lies",
        )
    _check_no_adapter(checkpoint)
    path = checkpoint / "config.json"
    fields = Fields(read_json(path, "the model configuration"), path)
    check_not_quantized(checkpoint, fields.raw, path)
    own = own_modeling(checkpoint) if has_own_modeling(checkpoint) and trust_checkpoint_code else None
    if own is not None and written_for_transformers(checkpoint) is None:
        check_not_quantized(checkpoint, own[0].raw, own[0].path)
        return _from_checkpoint_code(checkpoint, source_code, *own, norm_head)
    row = choose_row(source_code, fields)
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
            f"{fields.path} names code of its own, {one_line(target.module)}.py: compiled as {row['name']}; whether "
            "that is the same, a verification with --trust-checkpoint-code shows"
        )
    classes, known = fields.raw.get("architectures"), row.get("architectures")
    if (
        classes is not None
        and known is not None
        and not (isinstance(classes, list) and classes[:1] in [[name] for name in known])
    ):
        yield f"{fields.path} says architectures {architectures_of(fields)}: compiled as {row['name']}"
