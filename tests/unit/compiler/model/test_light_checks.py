"""Mistakes that JSON files show are told before torch and TVM are loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import write_config

CONFIG = """\
name: demo
frontend: {{checkpoint: {checkpoint}, shape: {{input_ids: [[16], [{context}]]}}, model_kwargs: {{tp: {tp}}}}}
backend: {{dtype: fp16}}
"""
PROGRAM = """
import argparse, sys
from pathlib import Path
import importlib
from vamc_runtime.errors import UserError
options = argparse.Namespace(
    config=Path(sys.argv[2]), target=Path(sys.argv[2]), overrides=[], trust_checkpoint_code=False, json=False,
    keep_intermediates=False, journal=None, report=None, bisect=False,
)
try:
    importlib.import_module(f"vamc_compiler.commands.{sys.argv[1]}").run(options)
except UserError as error:
    print(error.found.splitlines()[0])
print([name for name in ("torch", "tvm", "onnx", "transformers") if name in sys.modules])
"""


@pytest.mark.parametrize("command", ["compile", "verify"])
@pytest.mark.parametrize(
    ("changes", "context", "tp", "found"),
    [
        ({"model_type": "mamba"}, 64, 1, "describes an architecture that no modeling file covers"),
        ({"attention_bias": True}, 64, 1, "does not compute"),
        ({"quantization_config": {"quant_method": "awq"}}, 64, 1, "quantized already (awq)"),
        ({}, 4096, 1, "asks for a context of 4096 tokens"),
        ({}, 64, 7, "tp is 7, and the model has 6 attention heads"),
    ],
)
def test_nothing_heavy_is_loaded(
    tmp_path: Path, command: str, changes: dict[str, object], context: int, tp: int, found: str
) -> None:
    checkpoint = write_config(tmp_path / "checkpoint", "llama", **changes)
    path = tmp_path / "build.yaml"
    path.write_text(CONFIG.format(checkpoint=checkpoint, context=context, tp=tp), encoding="utf-8")
    arguments = [sys.executable, "-c", PROGRAM, command, str(path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=tmp_path)
    message, loaded = done.stdout.splitlines()[-2:]
    assert found in message
    assert loaded == "[]"
