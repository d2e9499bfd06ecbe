"""The thin runtime of vamc: loads a runstream and runs it across ranks.

    from vamc_runtime import LLM, SamplingParams

    with LLM("vacc_deploy/Baichuan2-13B-mini-int8-tp2-256-1024") as llm:
        for completion in llm.generate(["Once upon a time"], SamplingParams(max_new_tokens=32)):
            print(completion.text)

Imports nothing of the compiler, torch, onnx, transformers or `tvm`; a test in a bare environment proves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vamc_runtime.engine import LLM, Completion, Piece
    from vamc_runtime.errors import UserError
    from vamc_runtime.sampling import SamplingParams
    from vamc_runtime.text.chat import Message

__all__ = ["LLM", "Completion", "Message", "Piece", "SamplingParams", "UserError"]

_HOMES = {
    "LLM": "engine",
    "Completion": "engine",
    "Piece": "engine",
    "SamplingParams": "sampling",
    "Message": "text.chat",
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use: `vamc --help` and the compiler need none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
