"""A manifest with a right digest is still refused where it contradicts itself, and before anything is opened."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import fake_runstream as fake
import pytest

from vamc_runtime.errors import UserError
from vamc_runtime.manifest import read_manifest
from vamc_runtime.runstream import open_runstream

Place = tuple[str | int, ...]
RECORD = {"num_bytes": 1, "sha256": "0" * 64, "piece_sha256": []}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checks") / "r"
    fake.build(folder, tensor_parallel=2)
    return folder


@pytest.fixture(scope="module")
def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return found


def error_of(folder: Path, content: dict[str, Any]) -> str:
    (folder / "manifest.json").write_text(json.dumps(fake.with_digest(content)), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_manifest(folder)
    assert str(folder / "manifest.json") in caught.value.found and caught.value.fix
    assert "\x1b" not in caught.value.found
    return caught.value.found


def changed(content: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(content)
    holder: Any = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return content


@pytest.mark.parametrize(
    ("place", "values"),
    [
        (("name",), ["", ".", "..", "a/b", "/etc", "a\0b", "\x1b[31m", "n" * 300, "\u202ex"]),
        (("model", "vocab_size"), [0, -1, 2**31]),
        (("model", "num_layers"), [0, 3]),
        (("model", "num_kv_heads"), [0, 5]),
        (("model", "num_parameters"), [0, 2**61]),
        (("model", "label"), ["two\nlines"]),
        (("precision", "kv_cache"), ["int8", ""]),
        (("tensor_parallel",), [0, -2, 1, 3, 10**6]),
        (("limits", "max_prefill_tokens"), [0, -8, 65]),
        (("limits", "max_context_tokens"), [0, 7, 2**31, 10**12, 128]),
        (("kv_cache", "num_layers"), [0, 1, 3]),
        (("kv_cache", "num_heads"), [0, -1, 10**9]),
        (("kv_cache", "page_tokens"), [0, -4, 10**9]),
        (("kv_cache", "head_dim"), [0, 10**9]),
        (("libraries",), [[]]),
        (("libraries", 0, "file"), ["lib/nosuch.so", "rank_0/params.safetensors", "lib/libtvm_runtime.so", "../x.so"]),
        (("libraries", 0, "mcpu"), ["", "a/b", "\x1b[31m"]),
        (("parameters",), [[]]),
        (("files", "rank_2/params.safetensors"), [RECORD]),
        (("files", "../outside"), [RECORD]),
        (("files", "/etc/passwd"), [RECORD]),
        (("files", "tokenizer/../../x"), [RECORD]),
        (("files", "tokenizer//x"), [RECORD]),
        (("files", "./x"), [RECORD]),
        (("files", ""), [RECORD]),
        (("files", "a\0b"), [RECORD]),
        (("files", "\x1b]0;x\x07"), [RECORD]),
        (("files", "n" * 256), [RECORD]),
        (("files", "lib/libtvm_runtime.so", "num_bytes"), [-1, 2**61]),
        (("files", "lib/libtvm_runtime.so", "sha256"), ["", "0" * 63, "G" * 64, "0" * 64 + "\n", "A" * 64]),
        (("files", "lib/libtvm_runtime.so", "piece_sha256"), [["0" * 64]]),
        (("files", "lib/libtvm_runtime.so", "num_bytes"), [(64 << 20) + 1]),
        (("settings", "name"), ["other", 7]),
        (("settings", "frontend", "shape", "input_ids"), [[[8], [32]], [[8]], 7]),
    ],
    ids=lambda value: ".".join(map(repr, value)) if isinstance(value, tuple) else "",
)
def test_one_value(path: Path, content: dict[str, Any], place: Place, values: list[Any]) -> None:
    for value in values:
        assert "cannot be" in error_of(path, changed(content, place, value)), value


@pytest.mark.parametrize("name", ["lib/libtvm_runtime.so", "lib/model.any.so", "rank_1/params.safetensors"])
def test_what_is_loaded_is_listed(path: Path, content: dict[str, Any], name: str) -> None:
    files = {key: record for key, record in content["files"].items() if key != name}
    assert name in error_of(path, changed(content, ("files",), files))


@pytest.mark.parametrize("key", ["parameters", "libraries"])
def test_twice(path: Path, content: dict[str, Any], key: str) -> None:
    assert "is listed 2 times" in error_of(path, changed(content, (key,), [*content[key], content[key][0]]))


def test_nothing_is_wrong_with_it_otherwise(path: Path, content: dict[str, Any]) -> None:
    (path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    assert open_runstream(path).manifest.tensor_parallel == 2


def test_every_flipped_bit(path: Path, content: dict[str, Any]) -> None:
    good = json.dumps(content).encode()
    for position in range(0, 8 * len(good), 31):  # every bit of a byte in turn
        damaged = bytearray(good)
        damaged[position // 8] ^= 1 << position % 8
        (path / "manifest.json").write_bytes(damaged)
        with pytest.raises(UserError):
            read_manifest(path)
    (path / "manifest.json").write_bytes(good)


@pytest.mark.parametrize("digest", [None, "", "0" * 64, 7])
def test_another_digest(path: Path, content: dict[str, Any], digest: Any) -> None:
    (path / "manifest.json").write_text(json.dumps({**content, "digest": digest}), encoding="utf-8")
    with pytest.raises(UserError, match="is damaged or was edited: its digest is not that of its content"):
        read_manifest(path)
    (path / "manifest.json").write_text(json.dumps({k: v for k, v in content.items() if k != "digest"}))
    with pytest.raises(UserError, match="is damaged or was edited"):
        read_manifest(path)
    (path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")


def test_spaces_and_order_are_free(path: Path, content: dict[str, Any]) -> None:
    """The digest is of what it says, however it is laid out."""
    turned = dict(reversed(content.items()))
    (path / "manifest.json").write_text(json.dumps(turned, indent=7, ensure_ascii=False), encoding="utf-8")
    assert json.loads(read_manifest(path).to_json()) == content


def test_an_older_runstream(path: Path, content: dict[str, Any]) -> None:
    older = {key: value for key, value in content.items() if key != "digest"} | {"schema_version": 1}
    (path / "manifest.json").write_text(json.dumps(older), encoding="utf-8")
    with pytest.raises(UserError, match="has schema version 1") as caught:
        read_manifest(path)
    assert caught.value.fix == "compile the runstream again with this version"
    (path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_file_of_another_kind(path: Path) -> None:
    (path / "manifest.json").rename(path / "aside")
    (path / "manifest.json").write_bytes(b" " * (17 << 20))
    with pytest.raises(UserError, match="cannot be read: it has 16777217 bytes"):
        read_manifest(path)
    (path / "aside").replace(path / "manifest.json")
