"""`manifest.json` survives the disk field by field, and no damage to it goes unnoticed or unexplained."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_runstream as fake
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vamc_runtime.errors import UserError
from vamc_runtime.manifest import SCHEMA_VERSION, FileRecord, KVCacheLayout, Manifest, hash_file, read_manifest
from vamc_runtime.records import build_record

SAMPLE = fake.make_manifest(
    libraries=(fake.library("x86-64-v3", ["avx2"]), fake.library("znver4", ["avx2", "avx512f"])),
    files={
        name: FileRecord(num_bytes=number, sha256=f"{number:064x}")
        for number, name in enumerate(
            ("lib/libtvm_runtime.so", "lib/model.x86-64-v3.so", "lib/model.znver4.so", "rank_0/params.safetensors")
        )
    }
    | {"lib/large": FileRecord(num_bytes=(64 << 20) + 1, sha256="ab" * 32, piece_sha256=("cd" * 32,) * 3)},
    settings={"runtime": {"huge_pages": "on"}},
)
CONTENT: dict[str, Any] = json.loads(SAMPLE.to_json())
DIGEST = CONTENT.pop("digest")
FREE = ("settings", "files", "toolchain")  # their keys are data: any set of them is valid

Place = tuple[str | int, ...]


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Where a value stands in the manifest, for every value but those inside of `settings`."""
    if above:
        yield above
    if above == ("settings",):
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*above, key))


def shown(place: Place) -> str:
    """A place as an error message writes it."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).removeprefix(".")


def changed(place: Place, value: Any = None, *, delete: bool = False) -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    holder: Any = content
    for key in place[:-1]:
        holder = holder[key]
    if delete:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return content


def at(place: Place) -> Any:
    value: Any = CONTENT
    for key in place:
        value = value[key]
    return value


def error_of(folder: Path, content: Any) -> UserError:
    if isinstance(content, dict) and len(content) > 2:
        content = fake.with_digest(content)  # so that what is wrong is what it says
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    data = text.encode() if isinstance(text, str) else text
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_manifest(folder)
    assert caught.value.fix, "the message says what to do"
    return caught.value


ALL = list(places(CONTENT))
FIELDS = [place for place in ALL if isinstance(place[-1], str) and place[-2:-1] not in [(f,) for f in FREE]]


def test_the_places_are_all_there() -> None:
    assert ("libraries", 1, "requires", 0) in ALL and ("files", "lib/model.znver4.so", "sha256") in ALL
    assert ("digest",) not in ALL
    assert len(FIELDS) > 40


def test_round_trip(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(SAMPLE.to_json(), encoding="utf-8")
    assert read_manifest(tmp_path) == SAMPLE


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MANIFESTS = st.builds(
    Manifest, schema_version=st.just(SCHEMA_VERSION), settings=st.dictionaries(st.text(), JSON_VALUES, max_size=3)
)


@settings(deadline=None, max_examples=60)
@given(manifest=MANIFESTS)
def test_any_manifest_round_trips(manifest: Manifest) -> None:
    content = json.loads(manifest.to_json())
    assert content == fake.with_digest(content)
    assert build_record(Manifest, content, "manifest.json") == manifest


def test_text_beyond_ascii_is_written_as_it_is() -> None:
    assert (
        '"path": "/模型/百川"'
        in dataclasses.replace(SAMPLE, checkpoint=dataclasses.replace(SAMPLE.checkpoint, path="/模型/百川")).to_json()
    )


@pytest.mark.parametrize("place", FIELDS, ids=shown)
def test_missing_key(tmp_path: Path, place: Place) -> None:
    error = error_of(tmp_path, changed(place, delete=True))
    if place == ("schema_version",):
        assert "schema version None" in error.found
        return
    holder = shown(place[:-1])
    expected = f"{tmp_path / 'manifest.json'}{'.' if holder else ''}{holder} lacks {place[-1]}"
    assert error.found == expected
    assert "compile" in error.fix


WRONG: dict[type, list[Any]] = {
    str: [7, None, ["x"], {}, True],
    int: ["7", None, 7.0, True, [7]],
    list: ["x", None, 7, {}],
    dict: ["x", None, 7, []],
    type(None): [7, [], {}],
}


@pytest.mark.parametrize("place", ALL, ids=shown)
def test_wrong_type(tmp_path: Path, place: Place) -> None:
    for value in WRONG[type(at(place))]:
        if value is None and place == ("precision", "quantization"):
            continue  # may be absent: fp16
        error = error_of(tmp_path, changed(place, value))
        if place != ("schema_version",):
            # A list in place of a record is refused too; the place named is exact.
            assert error.found == f"{tmp_path / 'manifest.json'}.{shown(place)} is {value!r}"


def test_quantization_may_be_absent(tmp_path: Path) -> None:
    content = changed(("precision", "quantization"), None)
    (tmp_path / "manifest.json").write_text(json.dumps(fake.with_digest(content)), encoding="utf-8")
    assert read_manifest(tmp_path).precision.quantization is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        (json.dumps(CONTENT)[:-40], "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        ("[]", "schema version None"),
        ("7", "schema version None"),
        ("null", "schema version None"),
        ("{}", "schema version None"),
    ],
)
def test_not_a_manifest(tmp_path: Path, text: str | bytes, found: str) -> None:
    error = error_of(tmp_path, text)
    assert str(tmp_path / "manifest.json") in error.found and found in error.found


@pytest.mark.parametrize("version", [0, -1, "1", None, [1]])
def test_older_schema(tmp_path: Path, version: Any) -> None:
    error = error_of(tmp_path, changed(("schema_version",), version))
    assert f"schema version {version!r}" in error.found
    assert f"version {SCHEMA_VERSION}" in error.expected
    assert error.fix == "compile the runstream again with this version"


def test_newer_schema(tmp_path: Path) -> None:
    # Checked before anything else: a newer manifest may lack fields that this version knows.
    error = error_of(tmp_path, {"schema_version": SCHEMA_VERSION + 1})
    assert f"schema version {SCHEMA_VERSION + 1}" in error.found
    assert error.fix == "update vamc on this machine"


def test_unknown_keys_are_ignored(tmp_path: Path) -> None:
    content = changed(("note",), "from a later version of the same schema")
    (tmp_path / "manifest.json").write_text(json.dumps(fake.with_digest(content)), encoding="utf-8")
    assert read_manifest(tmp_path) == SAMPLE


@pytest.mark.parametrize("name", ["nowhere", "empty", "file.yaml"])
def test_not_a_runstream(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.yaml").write_text("name: x")
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path / name)
    assert f"{tmp_path / name} is not a runstream" in caught.value.found
    assert "vamc compile" in caught.value.expected and "check the path" in caught.value.fix


def test_a_folder_in_place_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_manifest(tmp_path)


def test_a_pipe_in_place_of_the_manifest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(UserError, match="cannot be read: it is not a file"):  # and does not wait for a writer
        read_manifest(tmp_path)


def test_page_bytes() -> None:
    layout = KVCacheLayout(num_layers=3, num_heads=5, page_tokens=16, head_dim=128)
    assert layout.page_bytes == 3 * (2 * 5 * 16 * 128) * 2  # keys and values, float16


def test_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert hash_file(tmp_path / "f").startswith("ba7816bf8f01cfea")
