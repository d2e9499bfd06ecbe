"""Running what a bisection wrote: the subgraph in onnxruntime and, where compiled code was at fault, compiled again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from vamc_compiler.verify.metrics import token_errors
from vamc_compiler.verify.run import Array
from vamc_runtime.errors import UserError

MODEL_FILE, INPUTS_FILE = "model.onnx", "inputs.npz"
EXPECTED_FILE, FOUND_FILE = "expected.npy", "found.npy"
CASE_FILE, SCRIPT_FILE = "case.json", "reproduce.py"
SCRIPT = """\
from vamc_compiler.verify.reproduce import reproduce

raise SystemExit(reproduce(__file__))
"""


def _error(expected: Array, found: Array) -> float:
    """Largest relative error over tokens."""
    return float(token_errors(found.reshape(expected.shape) - expected, expected).max())


def _run_onnx(model: onnx.ModelProto, inputs: dict[str, Array]) -> Array:
    from vamc_compiler.verify.graph_stage import open_session

    result: Array = open_session(model, 1).run(None, inputs)[0]
    return result


def reproduce(script: str | Path) -> int:
    """Run the case that lies beside a script, and say which results agree.

    Returns:
        Exit status: 1 when the fault shows in what was run now, 0 when it does not.

    Raises:
        UserError: files of the case are missing.
    """
    folder = Path(script).resolve().parent
    try:
        case: dict[str, Any] = json.loads((folder / CASE_FILE).read_text(encoding="utf-8"))
        model = onnx.load(folder / MODEL_FILE)
        inputs = dict(np.load(folder / INPUTS_FILE))
        expected, found = np.load(folder / EXPECTED_FILE), np.load(folder / FOUND_FILE)
    except (OSError, ValueError) as error:
        raise UserError(f"the case in {folder} is not whole: {error}", fix="run the bisection again") from error
    limit = float(case["limit"])
    print(case["location"])
    print(f"operations: {', '.join(case['operations'])}")
    lines = {f"{case['after']}, as recorded": _error(expected, found)}
    lines["this graph in onnxruntime"] = now = _error(expected, _run_onnx(model, inputs))
    if case["compiled"]:
        from vamc_compiler.verify.recompile import run_compiled

        lines["this graph compiled again"] = now = _error(expected, run_compiled(model, inputs, case))
    print(f"largest error against {case['before']} (budget {limit:g}):")
    for name, value in lines.items():
        print(f"  {name:<48} {value:.3g}")
    return int(not now <= limit)
