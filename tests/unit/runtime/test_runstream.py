"""A runstream is refused when it is not whole, not its own, or not for this machine; the message names the culprit."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_runstream as fake
import numpy as np
import pytest

from vamc_runtime import amx_check, file_content
from vamc_runtime import runstream as subject
from vamc_runtime.errors import UserError
from vamc_runtime.manifest import Limits
from vamc_runtime.runstream import (
    check_hashes,
    check_rank_weights,
    check_toolchain,
    choose_library,
    open_runstream,
)

WEIGHTS_0, WEIGHTS_1 = "rank_0/params.safetensors", "rank_1/params.safetensors"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A runstream of two ranks."""
    fake.build(tmp_path / "fake", tensor_parallel=2)
    return tmp_path / "fake"


def change_byte(file: Path, position: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def test_whole(path: Path) -> None:
    runstream = open_runstream(path)
    assert set(runstream.manifest.files) == {"lib/libtvm_runtime.so", "lib/model.any.so", WEIGHTS_0, WEIGHTS_1}
    check_hashes(runstream, everything=True)
    check_toolchain(runstream)
    assert choose_library(runstream).file == "lib/model.any.so"
    for rank in range(2):
        header = check_rank_weights(runstream, rank)
        assert header.path == path / f"rank_{rank}/params.safetensors"
        assert set(runstream.manifest.parameters) <= set(header.tensors)


class TestOpen:
    def test_missing_file(self, path: Path) -> None:
        (path / WEIGHTS_1).unlink()
        with pytest.raises(UserError) as caught:
            open_runstream(path)
        assert str(path) in caught.value.found and f"{WEIGHTS_1} is missing" in caught.value.found
        assert WEIGHTS_0 not in caught.value.found
        assert "copy the runstream again" in caught.value.fix

    def test_folder_in_place_of_a_file(self, path: Path) -> None:
        (path / WEIGHTS_1).unlink()
        (path / WEIGHTS_1).mkdir()
        with pytest.raises(UserError, match=f"{WEIGHTS_1} is missing"):
            open_runstream(path)

    @pytest.mark.parametrize("extra", [-1, 1])
    def test_other_size(self, path: Path, extra: int) -> None:
        file = path / "lib/model.any.so"
        content = file.read_bytes()
        file.write_bytes(content[:-1] if extra < 0 else content + b"x")
        with pytest.raises(UserError) as caught:
            open_runstream(path)
        assert f"lib/model.any.so has {len(content) + extra} bytes, not {len(content)}" in caught.value.found

    def test_every_problem_is_listed(self, path: Path) -> None:
        (path / WEIGHTS_0).unlink()
        (path / "lib/libtvm_runtime.so").write_bytes(b"")
        with pytest.raises(UserError) as caught:
            open_runstream(path)
        assert "lib/libtvm_runtime.so has 0 bytes" in caught.value.found
        assert f"{WEIGHTS_0} is missing" in caught.value.found


class TestHashes:
    @pytest.mark.parametrize("everything", [False, True])
    @pytest.mark.parametrize("name", ["lib/model.any.so", WEIGHTS_1])
    def test_changed_byte_in_a_small_file(self, path: Path, name: str, everything: bool) -> None:
        change_byte(path / name)
        with pytest.raises(UserError) as caught:
            check_hashes(open_runstream(path), everything=everything)
        assert f"{path / name} is damaged" in caught.value.found
        assert "copy the runstream again" in caught.value.fix

    def test_large_weights_when_asked_else_by_whoever_loads_them(self, tmp_path: Path) -> None:
        fake.build_large(tmp_path)
        change_byte(tmp_path / WEIGHTS_0, 35 << 20)
        runstream = open_runstream(tmp_path)
        check_hashes(runstream, everything=False)
        with pytest.raises(UserError, match=rf"{WEIGHTS_0} is damaged.* 32 MiB from byte 33554432") as caught:
            check_hashes(runstream, everything=True)
        assert "copy the runstream again" in caught.value.fix

    def test_small_files_also_beside_large_ones(self, tmp_path: Path) -> None:
        fake.build_large(tmp_path)
        change_byte(tmp_path / "lib/model.any.so")
        with pytest.raises(UserError, match=r"lib/model\.any\.so"):
            check_hashes(open_runstream(tmp_path), everything=False)

    def test_large_files_that_are_no_weights_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        path = tmp_path / "r"
        fake.build(path)
        large = path / "lib/large.bin"
        large.write_bytes(bytes(65 << 20))
        os.utime(large, (1e9, 1e9))
        fake.write_manifest(path, fake.make_manifest())
        runstream = open_runstream(path)
        monkeypatch.setattr(file_content, "SETTLED_SECONDS", -1.0)  # its ctime is now, whatever its mtime is
        check_hashes(runstream, everything=False)
        with monkeypatch.context() as patched:
            patched.setattr(file_content, "_hash_piece", lambda *arguments: pytest.fail("hashed again"))
            check_hashes(open_runstream(path), everything=False)
        with large.open("r+b") as file:
            file.write(b"x")
        with pytest.raises(UserError, match=r"large\.bin is damaged.* from byte 0"):
            check_hashes(open_runstream(path), everything=False)

    def test_content_beyond_one_block(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer").mkdir()
        large = tmp_path / "tokenizer" / "tokenizer.json"
        large.write_bytes(bytes((4 << 20) + 5))
        fake.build(tmp_path)
        check_hashes(open_runstream(tmp_path), everything=False)
        change_byte(large)
        with pytest.raises(UserError, match=r"tokenizer/tokenizer\.json is damaged"):
            check_hashes(open_runstream(tmp_path), everything=False)


class TestRankWeights:
    def test_swapped_ranks(self, path: Path) -> None:
        # Both files have the same size and their own correct content: only the header tells.
        swap(path / WEIGHTS_0, path / WEIGHTS_1)
        runstream = open_runstream(path)
        for rank, other in ((0, 1), (1, 0)):
            with pytest.raises(UserError) as caught:
                check_rank_weights(runstream, rank)
            assert caught.value.found == (f"{path}/rank_{rank}/params.safetensors holds the weights of rank {other}")
            assert caught.value.expected == f"rank {rank}"
            assert "mixed up" in caught.value.fix

    def test_other_number_of_ranks(self, path: Path) -> None:
        fake.write_rank(path, 0, num_ranks=4)
        runstream = open_runstream(path)
        with pytest.raises(UserError) as caught:
            check_rank_weights(runstream, 0)
        assert caught.value.found.endswith("holds the weights of ranks 4")
        assert caught.value.expected == "ranks 2"
        check_rank_weights(runstream, 1)

    def test_other_checkpoint(self, path: Path) -> None:
        fake.write_rank(path, 0, num_ranks=2, digest="b2" * 32)
        with pytest.raises(UserError) as caught:
            check_rank_weights(open_runstream(path), 0)
        assert caught.value.found.endswith(f"holds the weights of checkpoint {'b2' * 32}")
        assert caught.value.expected == f"checkpoint {fake.DIGEST}"

    @pytest.mark.parametrize("key", ["rank", "ranks", "checkpoint"])
    def test_weights_that_do_not_say_whose_they_are(self, path: Path, key: str) -> None:
        metadata = {"rank": "0", "ranks": "2", "checkpoint": fake.DIGEST}
        del metadata[key]
        fake.write_safetensors(path / WEIGHTS_0, fake.rank_tensors(0), metadata)
        manifest = fake.write_manifest(path, fake.make_manifest(tensor_parallel=2))
        assert manifest.tensor_parallel == 2
        with pytest.raises(UserError, match=f"holds the weights of {key} None"):
            check_rank_weights(open_runstream(path), 0)

    @pytest.mark.parametrize(
        ("names", "found"),
        [
            (["model.embed.weight", "model.head.weight"], "lacks 'model.head.scale'"),
            (
                ["model.embed.weight", "model.head.scale", "model.head.weight"],
                "the tensor 'model.head.scale' where",
            ),
            (["other", *fake.rank_tensors(0)], "has the tensor 'other' where manifest.json has 'model.embed.weight'"),
            ([*fake.rank_tensors(0), "other"], "has the tensor 'other' where manifest.json has None"),
        ],
    )
    def test_other_tensors_than_the_step_takes(self, path: Path, names: list[str], found: str) -> None:
        """The step takes them by their place: another order is other weights."""
        tensors = {"other": np.zeros(3, np.int8), **fake.rank_tensors(0)}
        metadata = {"rank": "0", "ranks": "2", "checkpoint": fake.DIGEST}
        fake.write_safetensors(path / WEIGHTS_0, {name: tensors[name] for name in names}, metadata)
        fake.write_manifest(path, fake.make_manifest(tensor_parallel=2))
        with pytest.raises(UserError) as caught:
            check_rank_weights(open_runstream(path), 0)
        assert found in caught.value.found and str(path / WEIGHTS_0) in caught.value.found

    @pytest.mark.parametrize(
        "change",
        [
            {"limits": Limits(max_prefill_tokens=16, max_context_tokens=64)},
            {"limits": Limits(max_prefill_tokens=8, max_context_tokens=128)},
            {"kv_cache": replace(fake.make_manifest().kv_cache, page_tokens=8)},
            {"kv_cache": replace(fake.make_manifest().kv_cache, head_dim=16)},
            {"model": replace(fake.make_manifest().model, vocab_size=401)},
            {"precision": replace(fake.make_manifest().precision, activations="int8")},
        ],
    )
    def test_weights_of_another_step(self, tmp_path: Path, change: dict[str, Any]) -> None:
        """Compiled code would read memory that is not there."""
        fake.build(tmp_path)
        fake.write_manifest(tmp_path, fake.make_manifest(**change))
        with pytest.raises(UserError, match="holds weights for another step than"):
            check_rank_weights(open_runstream(tmp_path), 0)

    def test_tensors_that_are_not_aligned(self, path: Path) -> None:
        metadata = {"rank": "0", "ranks": "2", "checkpoint": fake.DIGEST}
        fake.write_safetensors(path / WEIGHTS_0, fake.rank_tensors(0), metadata, alignment=8)
        fake.write_manifest(path, fake.make_manifest(tensor_parallel=2))
        with pytest.raises(UserError, match="does not begin at a multiple of 64 bytes"):
            check_rank_weights(open_runstream(path), 0)


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The features of this machine's CPU; a test may change them."""
    features = {"sse4_2", "avx2", "fma"}
    monkeypatch.setattr(subject, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(subject, "cpu_model", lambda: "Test CPU 3000")
    return features


@pytest.fixture(autouse=True)
def untried(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No library was tried by this process, or before on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    amx_check.find_mistake_once.cache_clear()


LIBRARIES = (
    fake.library("x86-64-v3", ["avx2", "fma"]),
    fake.library("x86-64-v2", ["sse4_2"]),
    fake.library("znver4", ["avx2", "fma", "avx512f", "avx512_vnni"]),
)


class TestLibrary:
    @pytest.mark.parametrize(
        ("features", "chosen"),
        [
            ({"sse4_2"}, "x86-64-v2"),
            ({"sse4_2", "avx2"}, "x86-64-v2"),
            ({"sse4_2", "avx2", "fma"}, "x86-64-v3"),
            ({"sse4_2", "avx2", "fma", "avx512f"}, "x86-64-v3"),
            ({"sse4_2", "avx2", "fma", "avx512f", "avx512_vnni", "amx_tile"}, "znver4"),
        ],
    )
    @pytest.mark.parametrize("order", [1, -1])
    def test_most_capable(self, tmp_path: Path, cpu: set[str], features: set[str], chosen: str, order: int) -> None:
        cpu.clear()
        cpu.update(features)
        fake.build(tmp_path, libraries=LIBRARIES[::order])
        assert choose_library(open_runstream(tmp_path)).mcpu == chosen

    @pytest.mark.parametrize(("granted", "chosen"), [(True, "sapphirerapids"), (False, "znver4")])
    def test_amx_only_where_linux_grants_it(
        self, tmp_path: Path, cpu: set[str], monkeypatch: pytest.MonkeyPatch, granted: bool, chosen: str
    ) -> None:
        cpu.update({"avx512f", "avx512_vnni", "amx_tile", "amx_int8"})
        monkeypatch.setattr(subject, "request_amx", lambda: granted)
        monkeypatch.setattr(amx_check, "find_mistake", lambda *_: "")
        tiles = fake.library("sapphirerapids", ["avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "amx_int8"])
        fake.build(tmp_path, libraries=(*LIBRARIES, tiles))
        assert choose_library(open_runstream(tmp_path)).mcpu == chosen

    def test_amx_refused_and_nothing_else_there(
        self, tmp_path: Path, cpu: set[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cpu.update({"amx_tile", "amx_int8"})
        monkeypatch.setattr(subject, "request_amx", lambda: False)
        fake.build(tmp_path, libraries=(fake.library("sapphirerapids", ["amx_tile", "amx_int8"]),))
        with pytest.raises(UserError, match="sapphirerapids needs AMX: Linux does not grant it to this process"):
            choose_library(open_runstream(tmp_path))

    def test_amx_only_where_its_products_are_right(
        self, tmp_path: Path, cpu: set[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Listed and granted, yet wrong: the next best library; right once, it is not tried again."""
        cpu.update({"avx512f", "avx512_vnni", "amx_tile", "amx_int8"})
        monkeypatch.setattr(subject, "request_amx", lambda: True)
        tried: list[tuple[Path, Path]] = []
        mistake = "ended by SIGILL"

        def find_mistake(vm: Path, library: Path, requires: object) -> str:
            tried.append((vm, library))
            return mistake

        monkeypatch.setattr(amx_check, "find_mistake", find_mistake)
        tiles = fake.library("sapphirerapids", ["avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "amx_int8"])
        fake.build(tmp_path / "r", libraries=(*LIBRARIES, tiles))
        runstream = open_runstream(tmp_path / "r")
        for _ in range(2):
            assert choose_library(runstream).mcpu == "znver4"
            amx_check.find_mistake_once.cache_clear()  # the next process: a failure is not remembered
        assert "not using the library for sapphirerapids" in caplog.text and mistake in caplog.text
        assert tried == 2 * [(tmp_path / "r/lib/libtvm_runtime.so", tmp_path / "r/lib/model.sapphirerapids.so")]
        mistake = ""
        for _ in range(2):
            assert choose_library(runstream).mcpu == "sapphirerapids"
            amx_check.find_mistake_once.cache_clear()
        assert len(tried) == 3
        monkeypatch.setattr(amx_check, "boot_id", lambda: "after a restart, or another machine with the same home")
        mistake = "12 of 99 results of bf16 products are wrong"
        assert choose_library(runstream).mcpu == "znver4"

    def test_amx_is_wrong_and_nothing_else_there(
        self, tmp_path: Path, cpu: set[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cpu.update({"amx_tile", "amx_int8"})
        monkeypatch.setattr(subject, "request_amx", lambda: True)
        monkeypatch.setattr(amx_check, "find_mistake", lambda *_: "it could not be tried: no memory")
        fake.build(tmp_path, libraries=(fake.library("sapphirerapids", ["amx_tile", "amx_int8"]),))
        with pytest.raises(UserError, match="sapphirerapids needs AMX: it could not be tried") as caught:
            choose_library(open_runstream(tmp_path))
        assert "backend.target.mcpu" in caught.value.fix

    def test_amx_is_not_asked_for_in_vain(self, tmp_path: Path, cpu: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
        cpu.add("amx_tile")
        monkeypatch.setattr(subject, "request_amx", lambda: pytest.fail("asked"))
        fake.build(tmp_path, libraries=LIBRARIES)
        choose_library(open_runstream(tmp_path))

    def test_features_missing(self, tmp_path: Path, cpu: set[str]) -> None:
        fake.build(tmp_path, libraries=(LIBRARIES[2], fake.library("tigerlake", ["avx2", "gfni"])))
        with pytest.raises(UserError) as caught:
            choose_library(open_runstream(tmp_path))
        found = caught.value.found
        assert "Test CPU 3000" in found
        assert "znver4 needs avx512_vnni, avx512f" in found and "tigerlake needs gfni" in found
        assert "avx2" not in found and "fma" not in found  # this CPU has those
        assert "backend.target.mcpu" in caught.value.fix

    def test_other_architecture(self, tmp_path: Path, cpu: set[str]) -> None:
        arm = fake.library("neoverse-n1", [], machine="sparc64")
        fake.build(tmp_path, libraries=(arm,))
        with pytest.raises(UserError, match="neoverse-n1 needs sparc64"):
            choose_library(open_runstream(tmp_path))

    def test_other_architecture_beside_ours(self, tmp_path: Path, cpu: set[str]) -> None:
        foreign = fake.library("ultra", ["avx2", "fma", "sse4_2"], machine="sparc64")
        fake.build(tmp_path, libraries=(foreign, LIBRARIES[1]))
        chosen = choose_library(open_runstream(tmp_path))
        assert (chosen.mcpu, chosen.machine) == ("x86-64-v2", platform.machine())


class TestToolchain:
    def test_other_version(self, tmp_path: Path) -> None:
        fake.build(tmp_path, toolchain={"apache-tvm-ffi": "0.1.99", "torch": "2.13.0"})
        with pytest.raises(UserError) as caught:
            check_toolchain(open_runstream(tmp_path))
        installed = fake.make_manifest().toolchain["apache-tvm-ffi"]
        assert "apache-tvm-ffi 0.1.99" in caught.value.found and installed in caught.value.found
        assert "pip install apache-tvm-ffi==0.1.99" in caught.value.fix

    def test_other_packages_may_differ(self, tmp_path: Path) -> None:
        toolchain = fake.make_manifest().toolchain | {"torch": "1.0", "vamc": "0.0.1"}
        fake.build(tmp_path, toolchain=toolchain)
        check_toolchain(open_runstream(tmp_path))
