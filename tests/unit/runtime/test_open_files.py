"""An open runstream keeps what it was checked with, whatever becomes of its folder, and reads nothing else."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_runstream as fake
import pytest
import tiny_tokenizers as tiny

from vamc_runtime import compiled_code, engine
from vamc_runtime.engine import LLM
from vamc_runtime.errors import UserError
from vamc_runtime.executor import cache_too_large
from vamc_runtime.runstream import open_runstream
from vamc_runtime.text.chat import Message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A runstream with a tokenizer."""
    config = {"eos_token": "<tool call>", "chat_template": "{{ messages[0].content }}"}
    tiny.write_json(
        tmp_path / "r" / "tokenizer",
        tiny.byte_level_json(),
        tokenizer_config=config,
        generation_config={"do_sample": True, "temperature": 0.5},
    )
    fake.build(tmp_path / "r")
    return tmp_path / "r"


def texts(llm: LLM) -> list[Any]:
    """Everything that comes from the tokenizer's files."""
    chat = llm.chat_format().render([Message("user", "hello")], 50)
    tokenizer = llm.tokenizer
    ids = tokenizer.encode("hello <tool call>")
    return [llm.has_tokenizer, ids, tokenizer.decode(ids), tokenizer.eos_ids, chat, llm.default_sampling()]


def move(path: Path) -> None:
    path.rename(path.with_name("moved"))


def swap(path: Path) -> None:
    """Another runstream takes its place, as in a deployment."""
    move(path)
    fake.build(path)


def spoil(path: Path) -> None:
    for file in (path / "tokenizer").iterdir():
        file.write_text("{}")


@pytest.mark.parametrize("change", [move, swap, spoil, shutil.rmtree])
def test_the_folder_changes(path: Path, change: Callable[[Path], None]) -> None:
    expected = texts(LLM(path))
    assert expected[0] and expected[5].temperature == 0.5
    llm = LLM(path)
    change(path)
    assert texts(llm) == expected


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json", "chat_template.jinja"])
def test_what_the_manifest_does_not_list_has_no_effect(path: Path, name: str) -> None:
    expected = texts(LLM(path))
    text = '{"<x>": 7}' if name.endswith(".json") else "{{ 1 / 0 }}"
    (path / "tokenizer" / name).write_text(text)
    assert texts(LLM(path)) == expected


def test_a_tokenizer_that_the_manifest_does_not_list(tmp_path: Path) -> None:
    fake.build(tmp_path / "r")
    tiny.write_json(tmp_path / "r" / "tokenizer", tiny.byte_level_json())
    llm = LLM(tmp_path / "r")
    assert not llm.has_tokenizer
    with pytest.raises(UserError, match="no tokenizer in"):
        assert llm.tokenizer


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_damaged_file_of_the_tokenizer(path: Path, name: str) -> None:
    file = path / "tokenizer" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file} is damaged"):
        LLM(path)


def test_links_may_lead_elsewhere(path: Path, tmp_path: Path) -> None:
    """What they lead to is compared with the manifest; a whole runstream may be one."""
    expected = texts(LLM(path))
    (path / "tokenizer").rename(tmp_path / "elsewhere")
    (path / "tokenizer").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(path)
    assert texts(LLM(tmp_path / "link")) == expected
    (tmp_path / "elsewhere" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer/tokenizer\.json is missing"):
        LLM(tmp_path / "link")
    (tmp_path / "elsewhere" / "tokenizer.json").symlink_to("tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer/tokenizer\.json cannot be read: Too many levels"):
        LLM(path)


@pytest.mark.parametrize("tokens", [10**12, 10**30, 2**31 * 16])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_cache_larger_than_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: int, num_ranks: int
) -> None:
    monkeypatch.setattr(engine, "available_memory_bytes", lambda: 1 << 30)
    fake.build(tmp_path / "r", tensor_parallel=num_ranks)
    layout = fake.make_manifest().kv_cache
    fitting = (1 << 30) // (layout.page_bytes * num_ranks) * layout.page_tokens
    with pytest.raises(UserError, match=r"a KV cache of .* tokens takes .* 1,024 MiB are available") as caught:
        LLM(tmp_path / "r", kv_cache_tokens=tokens)
    assert caught.value.expected == f"at most {fitting:,} tokens, beside the weights"
    assert LLM(tmp_path / "r", kv_cache_tokens=fitting).manifest.tensor_parallel == num_ranks
    with pytest.raises(UserError):
        LLM(tmp_path / "r", kv_cache_tokens=fitting + layout.page_tokens)


def test_what_a_cache_takes() -> None:
    layout = fake.make_manifest().kv_cache
    error = cache_too_large(3, layout, 5 * layout.page_bytes, 2)
    assert f"a KV cache of {3 * layout.page_tokens} tokens" in error.found
    assert error.expected.startswith(f"at most {2 * layout.page_tokens} tokens")


class TestLoadingCode:
    @pytest.fixture(autouse=True)
    def no_vm(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """A process without a VM, in which nothing can be loaded."""

        def refuse(path: str, *mode: int) -> None:
            raise OSError(f"{path}: failed to map segment from shared object")

        ffi = SimpleNamespace(get_global_func=lambda *name, **options: None, load_module=refuse)
        monkeypatch.setattr(compiled_code, "tvm_ffi", lambda: ffi)
        monkeypatch.setattr(ctypes, "CDLL", refuse)
        yield

    @pytest.mark.parametrize("noexec", [True, False])
    def test_refused_by_the_system(self, path: Path, monkeypatch: pytest.MonkeyPatch, noexec: bool) -> None:
        flags = os.statvfs(path).f_flag
        flags = flags | os.ST_NOEXEC if noexec else flags & ~os.ST_NOEXEC
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flags))
        runstream = open_runstream(path)
        for file, load in (
            ("lib/libtvm_runtime.so", partial(compiled_code.load_vm, runstream)),
            ("lib/model.any.so", partial(compiled_code.load_library, runstream, "lib/model.any.so")),
        ):
            with pytest.raises(UserError) as caught:
                load()
            assert caught.value.found.startswith(f"{path / file} cannot be loaded: ")
            assert ("noexec" in caught.value.found) == noexec
            assert ("symbolic link" in caught.value.fix) == noexec
            assert noexec or "failed to map segment" in caught.value.found

    def test_gone(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        runstream = open_runstream(path)

        def no_file(path: str) -> None:
            raise OSError(errno.ENOENT, "No such file")

        monkeypatch.setattr(os, "statvfs", no_file)
        with pytest.raises(UserError, match="cannot be loaded"):
            compiled_code.load_vm(runstream)
