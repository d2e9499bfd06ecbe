"""Verifies the stages in torch and onnxruntime of a checkpoint, each with a small share of memory.

`python verify_in_little_memory.py CHECKPOINT CONFIG SHARE_BYTES` prints, as JSON, the stages that were compared,
whether all passed, and the largest resident size over that of the process before the verification.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import transformers.models.llama.modeling_llama  # noqa: F401  # its memory is not the verification's

from vamc_compiler.compile import Built, CompileRequest, _manifest, check_inputs, subject_of
from vamc_compiler.config import load_config
from vamc_compiler.graph import make_rank_graphs
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.stages import SilentReporter, Stages
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.verification import Request, verify

TOKENS = 2  # every further one reads the whole model again, when tokens are computed one by one


def status_bytes(name: str) -> int:
    """A size of this process; unlike getrusage's, the peak leaves out that of the process that started this one."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def traced(checkpoint: Path, config: Path) -> Subject:
    """The checkpoint's graphs, without weights or code."""
    settings = [f"frontend.checkpoint={checkpoint}", f"verify.tokens={TOKENS}", "workspace.workers=1"]
    request = CompileRequest(config=load_config(config, settings))
    inputs = check_inputs(request, SilentReporter())
    graphs = make_rank_graphs(
        inputs.source, 1, ModelPrecision.of(request.config), num_workers=1, on_progress=lambda done, total: None
    )
    manifest = _manifest(request.config, inputs, graphs, [], "")
    return subject_of(request.config, inputs, Built(checkpoint / "nothing", manifest, tuple(graphs)))


def main(checkpoint: Path, config: Path, share_bytes: int) -> None:
    """Verify and print."""
    subject = traced(checkpoint, config)
    idle = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    request = Request(subject=subject, parts=frozenset({"reference", "modeling", "graphs"}), share_bytes=share_bytes)
    report = verify(request, Stages(SilentReporter())).report
    stages = list(dict.fromkeys(name for pair in report.pairs for name in (pair.before, pair.after)))
    print(json.dumps({"stages": stages, "passed": report.passed, "peak_bytes": status_bytes("VmHWM") - idle}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
