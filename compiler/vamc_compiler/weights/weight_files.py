"""Which files of a checkpoint folder hold its weights: the choice that transformers 5 makes.

A single file goes before an index beside it, and safetensors before pickles (transformers 5.24, modeling_utils.py,
`_get_resolved_checkpoint_files`; `transformers_weights` of config.json goes before both). An index left over from an
earlier save is therefore never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vamc_compiler.model.json_file import read_json
from vamc_compiler.show import one_line
from vamc_runtime.errors import UserError

_INDEX_SUFFIX = ".index.json"
_CANDIDATES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SHOWN = 8
"""Names that a message lists."""


_OTHERS = {
    "model-*.safetensors": "download model.safetensors.index.json too: it says which tensors there must be",
    "pytorch_model-*.bin": "download pytorch_model.bin.index.json too: it says which tensors there must be",
    "*.gguf": "take the checkpoint for transformers that it was made from",
    "consolidated*": "convert it for transformers: Meta's LLaMA with convert_llama_weights_to_hf.py",
    "*.safetensors": "rename it to model.safetensors, if it holds a whole model",
}
"""Names of weights that are not read -> what to do."""


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a checkpoint."""

    paths: tuple[Path, ...]
    """In the order of their names."""
    index: Path | None = None
    """The file that lists them, where there are several."""
    weight_map: Mapping[str, Path] = field(default_factory=dict)
    """The file of each tensor, as the index says."""


def find_weight_files(directory: Path) -> WeightFiles:
    """Choose the weight files of a folder.

    Raises:
        UserError: no weights; links that lead nowhere; an index that is damaged or names files that are not there.
        OSError: the folder cannot be read.
    """
    for name in _explicit_choice(directory) or _CANDIDATES:
        path = directory / name
        if _is_there(path):
            return _read_index(path) if name.endswith(_INDEX_SUFFIX) else WeightFiles((path,))
    others, fix = _other_files(directory)
    raise UserError(
        f"{directory} holds no weights{others}",
        expected="model.safetensors or pytorch_model.bin, or an index of several such files",
        fix=fix,
    )


def _other_files(directory: Path) -> tuple[str, str]:
    """Weights that are there and cannot be read, for a message, and what to do."""
    for pattern, fix in _OTHERS.items():
        names = sorted(path.name for path in directory.glob(pattern))
        if names:
            return f", only {list_some(names, ', ')}", fix
    return "", "finish the download of the checkpoint"


def _explicit_choice(directory: Path) -> tuple[str, ...]:
    """The file that config.json chooses; most choose none."""
    config = directory / "config.json"
    if not config.is_file():
        return ()
    chosen = read_json(config, "the model configuration").get("transformers_weights")
    if chosen is None:
        return ()
    if not isinstance(chosen, str) or not chosen.endswith((".safetensors", ".safetensors" + _INDEX_SUFFIX)):
        raise UserError(
            f"{config} has {chosen!r} for 'transformers_weights'", expected="a .safetensors file or its index"
        )
    _check_inside(config, chosen)
    if not _is_there(directory / chosen):
        raise UserError(
            f"{config} names {chosen} as the weights, which is missing", fix="finish the download of the checkpoint"
        )
    return (chosen,)


def _is_there(path: Path) -> bool:
    """Whether there is such a file; a link to nothing is not taken for a missing file, which another may replace."""
    if path.is_symlink() and not path.is_file():
        raise UserError(
            f"{path} is a link that leads to no file: {path.readlink()}",
            expected="a weight file",
            fix="finish the download, or copy the checkpoint with what its links name (cp -rL)",
        )
    return path.is_file()


def _check_inside(source: Path, name: str) -> None:
    """Refuse a file name that leads out of the checkpoint's folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise UserError(f"{source} names the weight file {name!r}", expected="files in the folder of the checkpoint")


def _read_index(index: Path) -> WeightFiles:
    """The files of an index, all of one format."""
    weight_map = read_json(index, "the index of weight files").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no 'weight_map'", expected="tensor names and files")
    suffix = Path(index.name.removesuffix(_INDEX_SUFFIX)).suffix
    for name in dict.fromkeys(map(str, weight_map.values())):
        _check_inside(index, name)
        if not name.endswith(suffix):
            raise UserError(f"{index} names the weight file {name!r}", expected=f"{suffix} files")
    places = {tensor: index.parent / str(name) for tensor, name in weight_map.items()}
    paths = sorted(set(places.values()))
    missing = [
        f"{path.name} (a link that leads to no file)" if path.is_symlink() else path.name
        for path in paths
        if not path.is_file()
    ]
    if missing:
        raise UserError(
            f"{index} names weight files that are missing: {list_some(missing)}",
            expected=f"all {len(paths)} files of the index in {index.parent}",
            fix="finish the download of the checkpoint",
        )
    return WeightFiles(tuple(paths), index, places)


def list_some(names: list[str], separator: str = ", ") -> str:
    """The first few of many names, and how many more there are."""
    more = f"{separator}... and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(map(one_line, names[:_SHOWN])) + more
