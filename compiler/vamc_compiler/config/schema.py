"""The settings of one build, as frozen objects. The names are those of the YAML keys.

Defaults are the values of absent keys. Paths are absolute once `load_config` has made the object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vamc_compiler.quantization import SCHEMES

from .constraints import (
    CpuName,
    DirectoryName,
    InputPath,
    NonNegativeFloat,
    NonNegativeInt,
    OutputPath,
    PositiveInt,
    Ratio,
    Share,
    TextTokens,
)

FrontendType = Literal["huggingface"]
ModelArch = Literal["vacc"]
BackendType = Literal["tvm", "tvm_vacc"]
Dtype = Literal["fp16", "bf16", "int8"]
PrefillPrecision = Literal["fp32", "bf16"]
TargetKind = Literal["llvm", "cuda"]
DatasetType = Literal["huggingface"]
DatasetName = Literal["c4", "ceval", "alpaca"]
HugePages = Literal["auto", "on", "off"]
VerifyWhen = Literal["compile", "off"]

if TYPE_CHECKING:
    SchemeName = str
else:
    SchemeName = Literal[tuple(SCHEMES)]

LENGTH_MULTIPLE_TOKENS = 16
NOT_A_SETTING: Mapping[str, Any] = {"setting": False}  # metadata of fields that are no YAML keys


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """`input_ids: [[P], [C]]`: the two lengths the graph is compiled for."""

    max_prefill_tokens: int
    """P: most prompt tokens in one prefill step; a multiple of 16."""
    max_context_tokens: int | None
    """C: most tokens of prompt and output together; a multiple of 16; None for an embedding model."""

    @property
    def input_ids(self) -> list[list[int]]:
        """The value of the YAML key."""
        return [
            [self.max_prefill_tokens],
            [] if self.max_context_tokens is None else [self.max_context_tokens],
        ]


@dataclass(frozen=True, kw_only=True)
class ModelKwargs:
    """How the model is cut and which modeling file is traced."""

    tp: PositiveInt = 1
    """Number of tensor-parallel ranks."""
    b2s: bool = False
    """True asks for throughput, false for latency."""
    model_arch: ModelArch | None = None
    """`vacc` prefers the patched modeling file that the checkpoint carries."""
    align_qkv: bool = False
    """Pad the query, key and value heads to a multiple of `tp`."""
    norm_head: bool | None = None
    """Whether a Baichuan divides the rows of its head by their length; None reads it from the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class CalibArgs:
    """Options of the quantizations that calibrate."""

    true_sequential: bool = True
    """Quantize the layers of one block one after the other."""


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """Which tensors are quantized, and how."""

    type: SchemeName
    """The scheme: one of `vamc_compiler.quantization`."""
    lm_head: bool = False
    """Quantize the language-model head too."""
    device: str = "cpu"
    """Device that calibrates, for example cuda:0."""
    calib_args: CalibArgs = field(default_factory=CalibArgs)
    """Options of the calibration."""


@dataclass(frozen=True, kw_only=True)
class FrontendConfig:
    """The model that goes in."""

    type: FrontendType = "huggingface"
    """Format of the checkpoint."""
    checkpoint: InputPath
    """Directory of the checkpoint."""
    shape: ShapeConfig
    """Lengths, in tokens."""
    model_kwargs: ModelKwargs = field(default_factory=ModelKwargs)
    """Tensor parallelism and modeling file."""
    quantize: QuantizeConfig | None = None
    """Quantization; None keeps the weights in 16 bits."""


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """The machines the artifacts are for."""

    kind: TargetKind = "llvm"
    """Code generator."""
    mcpu: tuple[CpuName, ...] = ()
    """LLVM CPU names, one library each; empty: the CPU that compiles."""


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """How the code computes.

    All but the first are options of VACC cards: loaded so that existing files work, without effect on other targets.
    """

    prefill_precision: PrefillPrecision | None = None
    """Arithmetic of the linear layers in prefill, for fp16 weights: bf16 rounds activations and weights to bfloat16
    on the way and is about twice as fast where the CPU has avx512_bf16; None is fp32."""
    data_type: NonNegativeInt = 0
    """Compute type code; 0 is fp16."""
    gather_data_vccl_dsp_enable: bool = False
    """Gather on the vector engines."""
    stream_mode: bool = False
    """Streamed execution."""
    attention_split_num: NonNegativeInt = 0
    """Number of pieces of one attention; 0 leaves it whole."""
    ffn_split_num: NonNegativeInt = 0
    """Number of pieces of one feed-forward block; 0 leaves it whole."""
    llm_build: bool = False
    """Treat the graph as a language model."""
    enable_dense_to_matmul: bool = False
    """Rewrite dense to matmul."""


@dataclass(frozen=True, kw_only=True)
class BackendConfig:
    """The code that comes out."""

    type: BackendType = "tvm"
    """Compiler; `tvm_vacc` is read as `tvm`."""
    dtype: Dtype
    """Type of the weights in the artifacts; bf16 also computes the linear layers of a prefill in bf16."""
    merge_params: bool = True
    """All parameters of a rank in one file."""
    remove_params: bool = False
    """Leave the parameters out of the library."""
    target: TargetConfig = field(default_factory=TargetConfig)
    """Machines to compile for."""
    compile: CompileOptions = field(default_factory=CompileOptions)
    """How the code computes."""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """The text a quantization calibrates with."""

    type: DatasetType = "huggingface"
    """Format of the data."""
    name: DatasetName
    """Which data set, which decides how a sample is read."""
    path: InputPath
    """Directory or file of the data."""
    nsamples: PositiveInt = 128
    """Number of samples."""
    seqlen: PositiveInt = 512
    """Length of one sample, in tokens."""


@dataclass(frozen=True, kw_only=True)
class WorkspaceConfig:
    """Where and with how many processes the build happens."""

    path: OutputPath = Path("vacc_deploy")
    """Directory of all runstreams; this build writes <path>/<name>."""
    workers: PositiveInt = 1
    """Number of processes that build at the same time."""
    env_recheck: bool = False
    """Compare the Python environment with `pyenv` first."""
    pyenv: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Python packages and versions the build wants."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Defaults for whoever loads the runstream."""

    huge_pages: HugePages = "auto"
    """Where the weights lie: on copies them into huge pages, off maps the file, auto decides on the machine."""


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """Largest differences a verification accepts; None takes the default of the precision (docs/numerics.md)."""

    mean_kl: NonNegativeFloat | None = None
    """Largest mean KL(original || compiled) over the tokens, in nats."""
    same_top: Share | None = None
    """Smallest share of decided positions at which both have the same likeliest token, 0 to 1."""
    perplexity_ratio: Ratio | None = None
    """Largest perplexity relative to the original's: the lower end of its 95 % interval, beyond chance."""
    modeling_error: NonNegativeFloat | None = None
    """Largest relative error of one layer between the original and the modeling file, both in float32."""
    rounding_error: NonNegativeFloat | None = None
    """Largest relative error of one layer between the original and the rounded weights."""
    block_error: NonNegativeFloat | None = None
    """Largest relative error of one layer between two stages that hold the same weights."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """The proof that the compiled model computes what the original does."""

    when: VerifyWhen = "compile"
    """compile: a build ends with a verification; off: it does not, and the runstream says so."""
    tokens: TextTokens = 256
    """Tokens that every stage computes with."""
    text: InputPath | None = None
    """UTF-8 text the tokens are from; None is the built-in sample."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """Largest differences accepted."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Everything one build needs to know."""

    name: DirectoryName
    """Name of the runstream directory."""
    frontend: FrontendConfig
    """The model that goes in."""
    backend: BackendConfig
    """The code that comes out."""
    dataset: DatasetConfig | None = None
    """Calibration data."""
    workspace: WorkspaceConfig = field(default_factory=WorkspaceConfig)
    """Place and size of the build."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Defaults for whoever loads the runstream."""
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    """The proof that the compiled model computes what the original does."""

    source_path: Path = field(metadata=NOT_A_SETTING)
    """The YAML file, absolute."""
    warnings: tuple[str, ...] = field(default=(), metadata=NOT_A_SETTING)
    """One line for each key that was given and has no effect, with its place."""
    setting_sources: Mapping[str, str] = field(default_factory=dict, compare=False, metadata=NOT_A_SETTING)
    """Dotted key of each setting -> `FILE:LINE:COLUMN`, `--set KEY=VALUE` or `default`."""
