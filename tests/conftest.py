"""What the test folders share: the demo checkpoints, and runstreams compiled from them once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
CHECKPOINTS = REPOSITORY / "build_in" / "checkpoints"
CONFIGS = REPOSITORY / "build_in" / "build"

# Demo checkpoint -> the middle of its configs' names: build_in/build/hf_<middle>_<dtype>.yaml
DEMO_MODELS = {
    "baichuan2-13b-mini": "baichuan",
    "baichuan2-7b-mini": "baichuan7b",
    "llama-mini": "llama",
}

# Precision -> the type in a config's name, and what a build changes in that config.
PRECISIONS = {
    "fp16": ("fp16", []),
    "bf16": ("fp16", ["backend.dtype=bf16"]),
    "fp16 prefill bf16": ("fp16", ["backend.compile.prefill_precision=bf16"]),
    "int8": ("int8", []),
    "int8 with head": ("int8", ["frontend.quantize.lm_head=true"]),
    "w8a8": ("int8", ["frontend.quantize.type=w8a8_dynamic"]),
}

CompileDemo = Callable[..., Path]


def demo_config(model: str, dtype: str) -> Path:
    """The shipped config of a demo checkpoint."""
    return CONFIGS / f"hf_{DEMO_MODELS[model]}_{dtype}.yaml"


@pytest.fixture(scope="session")
def compile_demo(tmp_path_factory: pytest.TempPathFactory) -> CompileDemo:
    """Compile a demo model: `compile_demo(model, precision, tp, mcpu)`; the same arguments give the same runstream.

    Every runstream keeps its plain weights and dumps, for the tests that look at them. None is verified: that is what
    tests do.
    """
    workspace = tmp_path_factory.mktemp("runstreams")
    built: dict[tuple[str, str, int, tuple[str, ...]], Path] = {}

    def compile_once(model: str, precision: str = "fp16", tp: int = 1, mcpu: tuple[str, ...] = ()) -> Path:
        key = (model, precision, tp, mcpu)
        if key not in built:
            from vamc_compiler.compile import CompileRequest, compile_model
            from vamc_compiler.config import load_config

            dtype, changes = PRECISIONS[precision]
            overrides = [
                *changes,
                "verify.when=off",
                *([f"backend.target.mcpu=[{', '.join(mcpu)}]"] if mcpu else []),
                f"frontend.model_kwargs.tp={tp}",
                f"workspace.path={workspace}",
                f"name={'-'.join([model, *precision.split(), f'tp{tp}', *mcpu])}",
                f"frontend.checkpoint={CHECKPOINTS / model}",
            ]
            config = load_config(demo_config(model, dtype), overrides)
            built[key] = compile_model(CompileRequest(config=config, keep_intermediates=True)).path
        return built[key]

    return compile_once


@pytest.fixture(scope="session")
def demo_runstream(compile_demo: CompileDemo) -> Path:
    """A small runstream of one rank."""
    return compile_demo("llama-mini")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write-numerics`: put the measured figures into docs/numerics.md."""
    parser.addoption("--write-numerics", action="store_true", help="update docs/numerics.md from tests/numerics")
