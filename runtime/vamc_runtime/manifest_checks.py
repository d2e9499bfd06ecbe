"""What a manifest says, compared with itself: whatever contradicts it is found before anything is opened.

A manifest that is whole by its digest may still have been written by something else than the compiler. Compiled code
reads memory where it is told to, so what it would be told is checked here as far as the manifest can show it; the rest
is compared with the rank files (`runstream.check_rank_weights`) and by the compiled step itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vamc_runtime.strict_json import shown

if TYPE_CHECKING:
    from vamc_runtime.manifest import Manifest

VM_LIBRARY = "lib/libtvm_runtime.so"
CACHE_DTYPE = "float16"
MAX_RANKS = 1024
MAX_TOKENS = 2**31 - 1
"""Positions are int32."""
MAX_NAME_BYTES = 255
_MAX_SIZE = 2**24
_MAX_PAGE_BYTES = 2**40
_MAX_FILE_BYTES = 2**60
_SHA256 = re.compile("[0-9a-f]{64}")


def weights_name(rank: int) -> str:
    """The packed weights of a rank, as a path in the runstream."""
    return f"rank_{rank}/params.safetensors"


def find_problems(manifest: Manifest) -> list[str]:
    """Everything about a manifest that cannot be, for people; empty for a good one."""
    numbers = list(_numbers(manifest))
    files = list(_files(manifest))
    # What follows computes with those numbers and names.
    rest = [] if numbers or files else [*_ranks(manifest), *_libraries(manifest), *_parameters(manifest)]
    return [*_name(manifest), *numbers, *files, *rest, *_settings(manifest)]


def _name(manifest: Manifest) -> Iterator[str]:
    if not _is_plain(manifest.name):
        yield f"name is {shown(manifest.name)}, which is not the name of a folder"
    for key, text in (("model.label", manifest.model.label), ("checkpoint.path", manifest.checkpoint.path)):
        if "\n" in text:
            yield f"{key} is {shown(text)}, which has several lines"


def _numbers(manifest: Manifest) -> Iterator[str]:
    model, kv, limits = manifest.model, manifest.kv_cache, manifest.limits
    for name, value, most in (
        ("model.vocab_size", model.vocab_size, MAX_TOKENS),
        ("model.hidden_size", model.hidden_size, _MAX_SIZE),
        ("model.num_layers", model.num_layers, _MAX_SIZE),
        ("model.num_heads", model.num_heads, _MAX_SIZE),
        ("model.num_kv_heads", model.num_kv_heads, model.num_heads),
        ("model.num_parameters", model.num_parameters, 2**60),
        ("tensor_parallel", manifest.tensor_parallel, MAX_RANKS),
        ("limits.max_context_tokens", limits.max_context_tokens, MAX_TOKENS),
        ("limits.max_prefill_tokens", limits.max_prefill_tokens, limits.max_context_tokens),
        ("kv_cache.num_heads", kv.num_heads, _MAX_SIZE),
        ("kv_cache.page_tokens", kv.page_tokens, _MAX_SIZE),
        ("kv_cache.head_dim", kv.head_dim, _MAX_SIZE),
    ):
        if not 1 <= value <= most:
            yield f"{name} is {value}, not 1 to {most}"
    if kv.num_layers != model.num_layers:
        yield f"kv_cache.num_layers is {kv.num_layers}, and model.num_layers {model.num_layers}"
    elif kv.page_bytes > _MAX_PAGE_BYTES:
        yield f"kv_cache describes pages of {kv.page_bytes} bytes"
    if kv.num_heads * manifest.tensor_parallel < model.num_kv_heads:
        yield f"kv_cache.num_heads is {kv.num_heads}, too few for {model.num_kv_heads} on all ranks"
    if manifest.precision.kv_cache != CACHE_DTYPE:
        yield f"precision.kv_cache is {shown(manifest.precision.kv_cache)}, not {CACHE_DTYPE}"


def _files(manifest: Manifest) -> Iterator[str]:
    for name, record in manifest.files.items():
        if not all(map(_is_plain, name.split("/"))):
            yield f"files names {shown(name)}, which is not a path in the runstream"
        elif not 0 <= record.num_bytes <= _MAX_FILE_BYTES:
            yield f"{name} has {record.num_bytes} bytes"
        elif not all(map(_SHA256.fullmatch, (record.sha256, *record.piece_sha256))):
            yield f"{name} has a sha256 that is not 64 hexadecimal digits"
        elif len(record.piece_sha256) != record.num_pieces:
            yield f"{name} has {len(record.piece_sha256)} pieces, and its size makes {record.num_pieces}"


def _is_plain(name: str) -> bool:
    """Whether a text names one file or folder, neither its parent nor itself, and can be shown."""
    return name not in ("", ".", "..") and "/" not in name and name.isprintable() and _fits(name)


def _fits(name: str) -> bool:
    return len(name.encode()) <= MAX_NAME_BYTES


def _ranks(manifest: Manifest) -> Iterator[str]:
    expected = {weights_name(rank) for rank in range(manifest.tensor_parallel)}
    stored = {name for name in manifest.files if name.startswith("rank_")}
    for name in sorted(expected - stored):
        yield f"{name} is not listed, and tensor_parallel is {manifest.tensor_parallel}"
    for name in sorted(stored - expected):
        yield f"{name} is listed, and tensor_parallel is {manifest.tensor_parallel}"


def _libraries(manifest: Manifest) -> Iterator[str]:
    if VM_LIBRARY not in manifest.files:
        yield f"{VM_LIBRARY} is not listed"
    if not manifest.libraries:
        yield "no library is listed"
    for name, count in Counter(library.file for library in manifest.libraries).items():
        if count > 1:
            yield f"the library {shown(name)} is listed {count} times"
        if name not in manifest.files or not re.fullmatch(r"lib/model\..+\.so", name):
            yield f"the library {shown(name)} is not a listed file lib/model.<CPU>.so"
    for library in manifest.libraries:
        if not _is_plain(library.mcpu):
            yield f"a library's mcpu is {shown(library.mcpu)}, which is not the name of a CPU"


def _parameters(manifest: Manifest) -> Iterator[str]:
    if not manifest.parameters:
        yield "no parameter is listed"
    for name, count in Counter(manifest.parameters).items():
        if count > 1:
            yield f"the parameter {shown(name)} is listed {count} times"


def _settings(manifest: Manifest) -> Iterator[str]:
    """The build config says some of it again."""
    limits, quantization = manifest.limits, manifest.precision.quantization
    shape = [[limits.max_prefill_tokens], [limits.max_context_tokens]]
    for place, value in (
        ("name", manifest.name),
        ("frontend.shape.input_ids", shape),
        ("frontend.model_kwargs.tp", manifest.tensor_parallel),
        ("frontend.quantize", None if quantization is None else _ANY),
        ("frontend.quantize.type", _ANY if quantization is None else quantization),
        ("backend.dtype", manifest.precision.weights),
    ):
        found = _setting(manifest.settings, place)
        if value is _ANY or found is _ANY:
            continue
        if found != value or isinstance(found, bool):
            yield f"settings.{place} is {shown(found)}, and elsewhere it says {shown(value)}"


_ANY = object()


def _setting(settings: Any, place: str) -> Any:
    """A value of the build config; _ANY where it has none."""
    value = settings
    for key in place.split("."):
        if not isinstance(value, dict) or key not in value:
            return _ANY
        value = value[key]
    return value
