"""The times and sizes that the foundation promises, measured: `python benchmarks/foundation.py [--json]`.

- compiling each demo config, as a user does, in a process of its own;
- the graph half (trace, export, simplify, import, compile) of a 40-layer model of the 13B width, with its memory;
- from starting `vamc run` to the first character of text, and the memory of the processes that run it.

Timings are medians of several runs; the machine, versions and date stand beside them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from peers.quiet import broken_rules, outside_the_rules

from vamc_runtime.machine import available_cores, cpu_model
from vamc_runtime.manifest import read_manifest

REPOSITORY = Path(__file__).resolve().parents[1]
VAMC = Path(sys.executable).parent / "vamc"
CONFIGS = ("hf_baichuan_int8", "hf_baichuan7b_fp16", "hf_llama_int8")
RUNS = 5
WIDE_CONFIG = {
    "model_type": "baichuan",
    "hidden_size": 5120,
    "intermediate_size": 13696,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "model_max_length": 4096,
    "vocab_size": 125696,
    "z_loss_weight": 0,
    "rms_norm_eps": 1e-6,
}


def compile_demo(config: str, workspace: Path) -> tuple[float, Path]:
    """Seconds of `vamc compile`, and the runstream."""
    command = [str(VAMC), "compile", str(REPOSITORY / "build_in" / "build" / f"{config}.yaml"), "--json"]
    command += ["--set", f"workspace.path={workspace}", "--set", f"name={config}", "--set", "verify.when=off"]
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, Path(json.loads(result.stdout)["runstream"])


def graph_half(folder: Path) -> dict[str, float]:
    """Seconds and peak memory of tracing to a linked library, 40 layers of hidden size 5120; run it in a child."""
    start = time.perf_counter()
    from vamc_compiler.graph import make_rank_graph
    from vamc_compiler.intermediates import Intermediates
    from vamc_compiler.kernels.instruction_set import InstructionSet
    from vamc_compiler.kernels.table import KernelTable
    from vamc_compiler.libraries import build_library
    from vamc_compiler.link import find_linker
    from vamc_compiler.model.registry import find_model
    from vamc_compiler.precision import ModelPrecision
    from vamc_compiler.relax_stage.importer import import_step
    from vamc_compiler.relax_stage.targets import host_target

    (folder / "config.json").write_text(json.dumps(WIDE_CONFIG), encoding="utf-8")
    source = find_model(folder, REPOSITORY / "source_code", trust_checkpoint_code=False)
    target = host_target()
    graph = make_rank_graph(source, 1, ModelPrecision(quantization="int8_per_channel"), 0)
    kernels = KernelTable(InstructionSet.of(target.requires))
    step = import_step(graph.model(), graph.parameters, kernels, max_step_tokens=1024)
    build_library(step.module, target, folder, find_linker(), Intermediates(None))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": time.perf_counter() - start, "peak_gib": peak / 2**30}


def measure_graph_half() -> dict[str, float]:
    """`graph_half` in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", __file__, "--graph-half", folder]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures


def watch_memory(process: subprocess.Popen[str], peaks: dict[int, int]) -> None:
    """Keep the peak resident size of a process and its children, except launchers."""
    root = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for member in [root, *root.children(recursive=True)]:
                if "python" in member.name() or "vamc" in member.name():
                    peaks[member.pid] = max(peaks.get(member.pid, 0), member.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.01)


def start_run(runstream: Path) -> subprocess.Popen[str]:
    """`vamc run`, its text in a pipe."""
    command = [str(VAMC), "run", str(runstream), "--prompt", "The capital of France", "--max-new-tokens", "128"]
    return subprocess.Popen([*command, "--ignore-eos"], stdout=subprocess.PIPE, text=True)


def first_text(runstream: Path) -> float:
    """Seconds from starting `vamc run` to the first character."""
    start = time.perf_counter()
    with start_run(runstream) as process:
        assert process.stdout is not None, "opened with a pipe"
        process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.stdout.read()
    return seconds


def largest_process(runstream: Path) -> float:
    """MiB of the largest process of a run; not timed, because watching takes time itself."""
    peaks: dict[int, int] = {}
    with start_run(runstream) as process:
        watcher = threading.Thread(target=watch_memory, args=(process, peaks))
        watcher.start()
        assert process.stdout is not None, "opened with a pipe"
        process.stdout.read()
    watcher.join()
    return max(peaks.values()) / 2**20


def measure() -> dict[str, Any]:
    """Every figure."""
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": len(available_cores()),
        "versions": {name: importlib.metadata.version(name) for name in ("vamc", "apache-tvm", "torch")},
        "load_average": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        demos = {}
        for config in CONFIGS:
            seconds, runstream = compile_demo(config, Path(folder))
            manifest = read_manifest(runstream)
            starts = [first_text(runstream) for _ in range(RUNS)]
            weights = manifest.files["rank_0/params.safetensors"].num_bytes / 2**20
            demos[config] = {
                "ranks": manifest.tensor_parallel,
                "compile_s": round(seconds, 1),
                "first_text_s": round(statistics.median(starts), 2),
                "first_text_spread_s": round(max(starts) - min(starts), 2),
                "process_mib": round(largest_process(runstream), 1),
                "weights_mib": round(weights, 1),
            }
        report["demos"] = demos
    report["graph_half_40_layers"] = {name: round(value, 2) for name, value in measure_graph_half().items()}
    return report


def as_text(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    broken = broken_rules(load=report["load_average"], rounds=RUNS, cores=None)
    lines = [
        f"{report['date']}, {report['cpu']}, {report['cores']} cores, load {report['load_average']:.1f}, {versions}",
        "",
        *([outside_the_rules(broken), ""] if broken else []),
        "| config | ranks | compile, s | first text after, s (median, spread) | largest process, MiB | weights, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for config, row in report["demos"].items():
        lines.append(
            f"| {config} | {row['ranks']} | {row['compile_s']} | {row['first_text_s']} "
            f"({row['first_text_spread_s']}) | {row['process_mib']} | {row['weights_mib']} |"
        )
    wide = report["graph_half_40_layers"]
    lines += ["", f"Graph half, 40 layers of width 5120: {wide['seconds']} s, {wide['peak_gib']} GiB at the peak."]
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--graph-half", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.graph_half is not None:
        print(json.dumps(graph_half(options.graph_half)))
        return
    report = measure()
    print(json.dumps(report, indent=1) if options.json else as_text(report))


if __name__ == "__main__":
    main()
