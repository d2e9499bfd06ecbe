"""The demo models, the precisions and degrees they are verified in, and how one such case is built.

Nothing here touches the network: checkpoints, text and modeling files are those of the repository.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vamc_compiler.verify.result import VerificationReport
    from vamc_compiler.verify.subject import Subject

REPOSITORY = Path(__file__).resolve().parents[2]
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
    "fp16 prefill bf16": ("fp16", ["backend.compile.prefill_precision=bf16"]),
    "bf16": ("fp16", ["backend.dtype=bf16"]),
    "int8": ("int8", []),
    "int8 with head": ("int8", ["frontend.quantize.lm_head=true"]),
    "w8a8": ("int8", ["frontend.quantize.type=w8a8_dynamic"]),
}

# 6 heads (13B) divide by 2 and 3, and are padded for 4; 4 heads (7B) are padded for 3; 2 key/value heads (LLaMA) are
# divided for 2, repeated for 3, and for 4 repeated while query heads are padded.
DEGREES = (1, 2, 3, 4)
# A precision of prefill alone: nothing about it depends on the degree.
ON_ONE_RANK = {"fp16 prefill bf16"}

LEVELS = ("x86-64-v3", "x86-64-v4", "znver4")
"""CPU levels of builds that tests share: AVX2; AVX-512; AVX-512 with VNNI and bfloat16. The best one runs."""


@dataclass(frozen=True, order=True)
class Case:
    """One build of a demo model."""

    model: str
    precision: str
    tp: int

    def __str__(self) -> str:
        return f"{self.model}, {self.heading}"

    @property
    def heading(self) -> str:
        """The case within its model's file."""
        return f"{self.precision}, {self.tp} rank{'s' * (self.tp > 1)}"


def every_case() -> Iterator[Case]:
    """The whole matrix, model by model."""
    for model in DEMO_MODELS:
        for precision in PRECISIONS:
            for tp in DEGREES[:1] if precision in ON_ONE_RANK else DEGREES:
                yield Case(model, precision, tp)


def held_out_text(model: str) -> str:
    """Text of the kind that a demo model was trained on, and that it never read."""
    name = "held_out_gazette.txt" if model == "baichuan2-7b-mini" else "held_out.txt"
    return (CHECKPOINTS / name).read_text(encoding="utf-8")


def build_case(case: Case, folder: Path, mcpu: Sequence[str] = (), *, keep_intermediates: bool = False) -> Subject:
    """Compile a case into `folder`, which is made; what comes out is not verified.

    Args:
        case: what to build.
        folder: of the runstream.
        mcpu: CPU levels; none means the CPU that compiles.
        keep_intermediates: keep dumps and plain weights.
    """
    from vamc_compiler.compile import CompileRequest, build_runstream, check_inputs, subject_of
    from vamc_compiler.config import load_config
    from vamc_compiler.package import add_certificate
    from vamc_compiler.stages import SilentReporter, Stages
    from vamc_compiler.verify.certify import certify

    dtype, changes = PRECISIONS[case.precision]
    overrides = [
        *changes,
        "verify.when=off",
        *([f"backend.target.mcpu=[{', '.join(mcpu)}]"] if mcpu else []),
        f"frontend.model_kwargs.tp={case.tp}",
        f"workspace.path={folder.parent}",
        f"name={folder.name}",
        f"frontend.checkpoint={CHECKPOINTS / case.model}",
    ]
    config = load_config(CONFIGS / f"hf_{DEMO_MODELS[case.model]}_{dtype}.yaml", overrides)
    request, stages = CompileRequest(config=config, keep_intermediates=keep_intermediates), Stages(SilentReporter())
    inputs = check_inputs(request, stages.reporter)
    folder.mkdir()
    subject = subject_of(config, inputs, build_runstream(request, inputs, folder, stages))
    certified = certify(subject, stages, trust_checkpoint_code=False)
    add_certificate(certified.certificate, folder, subject.manifest)
    return subject


def verify_case(subject: Subject) -> VerificationReport:
    """Every stage of a built case, on the tokens of a default `vamc verify`: 256 of the built-in sample.

    The demo models never saw such text, so their probabilities are flat and errors show. The same model on one rank is
    not compiled once more for a case over several: it is a case of its own.
    """
    from vamc_compiler.stages import SilentReporter, Stages
    from vamc_compiler.verify.verification import Request, verify

    return verify(Request(subject=subject), Stages(SilentReporter())).report
