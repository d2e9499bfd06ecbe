"""A build never holds the model, whatever its size, nor does a verification in torch and onnxruntime; running holds
weights and cache, and little else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from e2e_tools import REPOSITORY, VAMC, run_process
from synthetic import write_llama

from vamc_runtime.weights_memory import HugePages

GIB = 1 << 30
CHECKPOINT_BYTES = 2 * GIB
ALLOWED_BYTES = int(1.5 * GIB)
ALLOWED_RUNTIME_BYTES = 120 << 20
HUGE_PAGE_BYTES = 2 << 20
VERIFY_SHARE_BYTES = 32 << 20
ALLOWED_VERIFY_BYTES = 256 << 20
"""The share of a stage that ended and of the next one, the largest tensor as stored and in float32, and activations."""


class PeakMemory(threading.Thread):
    """Watches a process and its children, and keeps the largest resident size of any one of them."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self._process = process
        self.peak_bytes = 0

    def run(self) -> None:
        while self._process.is_running():
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for member in family:
                try:
                    self.peak_bytes = max(self.peak_bytes, member.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.01)


def idle_bytes() -> int:
    """Resident size of a process that has loaded the compiler and done nothing."""
    script = "import vamc_compiler.compile, psutil; print(psutil.Process().memory_info().rss)"
    return int(run_process(sys.executable, "-W", "ignore", "-c", script).output)


@pytest.fixture
def large_checkpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "checkpoint"
    size = write_llama(path, hidden=2048, intermediate=5632, heads=16, layers=20, vocab=32000)
    assert size >= CHECKPOINT_BYTES
    yield path
    shutil.rmtree(tmp_path)


def test_building_a_2_gib_checkpoint_stays_small(large_checkpoint: Path, tmp_path: Path) -> None:
    config = REPOSITORY / "build_in" / "build" / "hf_llama_int8.yaml"
    settings = [
        f"frontend.checkpoint={large_checkpoint}",
        f"workspace.path={tmp_path / 'w'}",
        "workspace.workers=2",
        "verify.when=off",  # it maps the weights as the runtime does, which would count here
        "name=large",
    ]
    command = [VAMC, "compile", config, *(part for setting in settings for part in ("--set", setting))]
    build = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
    watch = PeakMemory(psutil.Process(build.pid))
    watch.start()
    errors = build.communicate(timeout=400)[1]
    watch.join()
    assert build.returncode == 0, errors
    over = watch.peak_bytes - idle_bytes()
    print(f"peak {watch.peak_bytes / GIB:.2f} GiB, {over / GIB:.2f} GiB over the idle process")
    assert over <= ALLOWED_BYTES


def test_verifying_a_model_larger_than_memory_stays_small(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    try:
        size = write_llama(checkpoint, hidden=2048, intermediate=5632, heads=16, layers=4, vocab=8000)
        assert 2 * size >= 3 * ALLOWED_VERIFY_BYTES, "in float32, the model is several times what is allowed"
        script = REPOSITORY / "tests" / "e2e" / "verify_in_little_memory.py"
        config = REPOSITORY / "build_in" / "build" / "hf_llama_fp16.yaml"
        done = run_process(sys.executable, "-W", "ignore", script, checkpoint, config, VERIFY_SHARE_BYTES)
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)
    found = json.loads(done.output.splitlines()[-1])
    assert found["passed"]
    assert [name for name in found["stages"] if not name.endswith(("in chunks", "token by token"))] == [
        "original",
        "modeling file, float32",
        "modeling file, 1 rank",
        "exported ONNX, 1 rank",
        "simplified ONNX, 1 rank",
    ]
    print(f"peak {found['peak_bytes'] / 2**20:.0f} MiB over the idle process, weights {size / 2**20:.0f} MiB")
    assert found["peak_bytes"] <= ALLOWED_VERIFY_BYTES


@pytest.mark.parametrize("huge_pages", ["off", "on"])
def test_running_takes_weights_cache_and_little_else(demo_runstream: Path, huge_pages: HugePages) -> None:
    script = (
        "import psutil\nfrom vamc_runtime import LLM, SamplingParams\n"
        f"with LLM({str(demo_runstream)!r}, huge_pages={huge_pages!r}, kv_cache_tokens=1024) as llm:\n"
        "    llm.generate([[5, 6, 7] * 30], SamplingParams(max_new_tokens=8))\n"
        "    kv = llm.manifest.kv_cache\n"
        "    print(psutil.Process().memory_info().rss, kv.page_bytes * 1024 // kv.page_tokens, kv.num_layers)"
    )
    resident, cache, layers = map(int, run_process(sys.executable, "-c", script).output.split())
    weights = (demo_runstream / "rank_0" / "params.safetensors").stat().st_size
    rounding = (layers + 1) * HUGE_PAGE_BYTES if huge_pages == "on" else 0
    assert resident <= ALLOWED_RUNTIME_BYTES + weights + cache + rounding
