"""`vamc compile`: one plain function from a build config to a published runstream."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vamc_compiler.config import BuildConfig, check_buildable, effective_settings
from vamc_compiler.graph import PAGE_TOKENS, RankGraph, make_rank_graphs, parse_model
from vamc_compiler.intermediates import FOLDER as INTERMEDIATES
from vamc_compiler.intermediates import Intermediates
from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.table import KernelTable
from vamc_compiler.libraries import FOLDER as LIBRARIES
from vamc_compiler.libraries import build_library
from vamc_compiler.link import find_linker
from vamc_compiler.model.check import check_model
from vamc_compiler.model.quantized import check_no_quantized_tensors
from vamc_compiler.model.registry import ModelSource, has_own_modeling
from vamc_compiler.package import (
    add_certificate,
    plan_onnx_weights,
    record_files,
    toolchain_versions,
    write_manifest,
    write_onnx,
    write_tokenizer,
)
from vamc_compiler.packing import Packing
from vamc_compiler.precision import ModelPrecision, multiplies_in_bfloat16
from vamc_compiler.publish import check_place, staging
from vamc_compiler.relax_stage.importer import import_step
from vamc_compiler.relax_stage.targets import CpuTarget, resolve_targets, runtime_library
from vamc_compiler.stages import Reporter, SilentReporter, Stages
from vamc_compiler.tokenizer.export import TokenizerFiles, export_tokenizer
from vamc_compiler.trace.rank_module import list_ranks
from vamc_compiler.verify.certify import certify
from vamc_compiler.verify.result import VerificationReport
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.tokens import tokens_of
from vamc_compiler.weights.checkpoint import Checkpoint, digest_checkpoint, open_checkpoint
from vamc_compiler.weights.fit import fit_checkpoint
from vamc_compiler.weights.safetensors_file import ITEM_BYTES
from vamc_compiler.weights.writer import RankFile, plan_rank_file, write_rank_files
from vamc_runtime import manifest
from vamc_runtime.manifest import Manifest
from vamc_runtime.resources import explain, require_space

PARAMETERS_FILE = "params.safetensors"
OBJECT_BYTES = 4 << 20
"""Room for the object files of one CPU; they hold no weights, so that it does not grow with the model."""


@dataclass(frozen=True, kw_only=True)
class CompileRequest:
    """What to build and how; the knobs that are no part of the config."""

    config: BuildConfig
    trust_checkpoint_code: bool = False
    """Run a modeling file that the checkpoint carries."""
    keep_intermediates: bool = False
    """Keep every stage's dump, and plain weights for the ONNX files."""


@dataclass(frozen=True)
class CompileResult:
    """What came out."""

    path: Path
    manifest: Manifest
    seconds: dict[str, float]
    """Time of each stage."""
    report: VerificationReport | None = None
    """What the verification found; None where it is off or was not possible."""


@dataclass(frozen=True)
class BuildInputs:
    """Everything that was checked before the work began."""

    source: ModelSource
    checkpoint: Checkpoint
    num_ranks: int
    targets: list[CpuTarget]
    linker: list[str]
    max_context_tokens: int
    weight_bytes: int
    """Of all ranks, before packing, which rounds up."""
    tokenizer: TokenizerFiles


@dataclass(frozen=True)
class Built:
    """A runstream that was filled, and the graphs it was made from."""

    path: Path
    manifest: Manifest
    graphs: tuple[RankGraph, ...]
    """Every rank's, traced and simplified."""


def compile_model(request: CompileRequest, reporter: Reporter | None = None) -> CompileResult:
    """Build the runstream of a config, verify it, and publish it at <workspace.path>/<name>.

    Raises:
        VerificationFailedError: what was compiled is outside its budget; nothing is published then.
        UserError: anything about the config, the checkpoint or the machine that stands in the way; nothing is
            published then.
        StageFailedError: a stage failed for another reason.
    """
    place = request.config.workspace.path / request.config.name
    stages = Stages(reporter or SilentReporter(), place.parent)
    try:
        with stages.stage("check") as note:
            check_place(place)
            inputs = check_inputs(request, stages.reporter)
            check_space(inputs, place.parent)
            note.text = f"{inputs.source.label}, {inputs.num_ranks} rank{'s' * (inputs.num_ranks > 1)}"
            if inputs.tokenizer.compared_with:
                note.text += f", {inputs.tokenizer.compared_with}"
        with staging(place, stages.reporter) as folder:
            built = build_runstream(request, inputs, folder, stages)
            certified = certify(
                subject_of(request.config, inputs, built), stages, trust_checkpoint_code=request.trust_checkpoint_code
            )
            written = add_certificate(certified.certificate, folder, built.manifest)
    except OSError as error:
        raise explain(error, folders=[place.parent]) or error from error
    return CompileResult(place, written, stages.seconds, certified.report)


def subject_of(config: BuildConfig, inputs: BuildInputs, built: Built) -> Subject:
    """What was built, as verification takes it."""
    return Subject(
        config=config,
        source=inputs.source,
        checkpoint=inputs.checkpoint,
        graphs=built.graphs,
        runstream=built.path,
        manifest=built.manifest,
    )


def check_inputs(request: CompileRequest, reporter: Reporter) -> BuildInputs:
    """Every check that needs no trace: a mistake shows within seconds, not after minutes.

    Raises:
        UserError: anything about the config, the checkpoint or the machine that stands in the way.
    """
    config = request.config
    for warning in config.warnings:
        reporter.warn(warning)
    check_buildable(config)
    source = check_model(config, trust_checkpoint_code=request.trust_checkpoint_code)
    for warning in source.warnings:
        reporter.warn(warning)
    if config.frontend.model_kwargs.model_arch == "vacc" and not has_own_modeling(config.frontend.checkpoint):
        reporter.warn("frontend.model_kwargs.model_arch is vacc, and the checkpoint carries no config_vacc.json")
    context = config.frontend.shape.max_context_tokens
    assert context is not None, "check_buildable refuses configs without a context length"
    tokenizer = export_tokenizer(
        config.frontend.checkpoint,
        vocab_size=source.config.vocab_size,
        trust_checkpoint_code=request.trust_checkpoint_code,
    )
    for warning in tokenizer.warnings:
        reporter.warn(warning)
    if not tokenizer.has_tokenizer:
        reporter.warn(f"{config.frontend.checkpoint} has no tokenizer: the runstream takes token ids only")
    if config.verify.when == "compile":
        tokens_of(config, tokenizer.folder, source.config.vocab_size)
    num_ranks = config.frontend.model_kwargs.tp
    checkpoint = open_checkpoint(config.frontend.checkpoint)
    check_no_quantized_tensors(checkpoint.directory, checkpoint.tensors)
    fitted = fit_checkpoint(
        source,
        checkpoint,
        lambda source: list_ranks(source, num_ranks, ModelPrecision.of(config)),
    )
    targets = resolve_targets(config.backend.target.mcpu)
    weight_bytes = sum(math.prod(spec.shape) * ITEM_BYTES[spec.dtype] for rank in fitted.ranks for spec in rank)
    return BuildInputs(
        fitted.source, fitted.checkpoint, num_ranks, targets, find_linker(), context, weight_bytes, tokenizer
    )


def check_space(inputs: BuildInputs, folder: Path) -> None:
    """Refuse a build for which there is no room, before the work.

    Raises:
        UserError: the disk of `folder`, or that of temporary files, has not the space that is needed at least.
    """
    require_space(folder, inputs.weight_bytes, "the weights need")
    require_space(Path(tempfile.gettempdir()), len(inputs.targets) * OBJECT_BYTES, "temporary files need")


def build_runstream(request: CompileRequest, inputs: BuildInputs, folder: Path, stages: Stages) -> Built:
    """Fill `folder` with a runstream."""
    config, reporter = request.config, stages.reporter
    intermediates = Intermediates(folder / INTERMEDIATES if request.keep_intermediates else None)

    with stages.stage("trace") as note:
        graphs = make_rank_graphs(
            inputs.source,
            inputs.num_ranks,
            ModelPrecision.of(config),
            num_workers=config.workspace.workers,
            on_progress=lambda done, total: reporter.progress(done, total, "ranks"),
        )
        for graph in graphs:
            intermediates.onnx(f"traced_rank_{graph.rank}", parse_model(graph.traced))
            intermediates.onnx(f"simplified_rank_{graph.rank}", graph.model())
        note.text = f"{len(graphs[0].model().graph.node)} ONNX nodes, {len(graphs[0].parameters)} parameters"

    libraries: list[manifest.Library] = []
    packings: dict[str, Packing] = {}
    for target in inputs.targets:
        with stages.stage(f"compile {target.mcpu}") as note:
            step = import_step(
                graphs[0].model(),
                graphs[0].parameters,
                KernelTable(InstructionSet.of(target.requires), bfloat16_prefill=multiplies_in_bfloat16(config)),
                max_step_tokens=config.frontend.shape.max_prefill_tokens,
            )
            intermediates.module(f"{target.mcpu}_imported", step.module)
            assert not packings or packings == step.packings, "one set of weights serves every target"
            packings = dict(step.packings)
            libraries.append(build_library(step.module, target, folder, inputs.linker, intermediates))
            note.text = f"{(folder / libraries[-1].file).stat().st_size / 2**20:.1f} MiB"
    shutil.copyfile(runtime_library(), folder / LIBRARIES / runtime_library().name)

    digest = digest_checkpoint(inputs.checkpoint, _tensor_names(graphs))
    with stages.stage("weights") as note:
        written = _manifest(config, inputs, graphs, libraries, digest)
        files = _plan_weights(graphs, packings, folder, written)
        if request.keep_intermediates:
            files += [plan_onnx_weights(graph, folder) for graph in graphs]
        num_bytes = sum(file.plan.num_bytes for file in files)
        require_space(folder.parent, num_bytes, "the weights need")
        write_rank_files(
            files,
            inputs.checkpoint,
            num_workers=config.workspace.workers,
            on_progress=lambda done, total: reporter.progress(done, total, "weights"),
        )
        note.text = f"{num_bytes / 2**20:.1f} MiB"

    with stages.stage("package") as note:
        write_tokenizer(inputs.tokenizer, folder)
        for graph in graphs:
            write_onnx(graph, folder)
        records = record_files(folder, lambda done, total: reporter.progress(done, total, "files"))
        written = dataclasses.replace(written, files=records)
        write_manifest(written, folder)
        note.text = f"{len(records)} files"
    return Built(folder, written, tuple(graphs))


def _tensor_names(graphs: Sequence[RankGraph]) -> set[str]:
    return {name for graph in graphs for spec in graph.parameters for name in spec.tensors}


def _plan_weights(
    graphs: Sequence[RankGraph], packings: Mapping[str, Packing], folder: Path, written: Manifest
) -> list[RankFile]:
    """The layout of every rank's file; its metadata says whose it is, so that no rank runs another's weights."""
    return [
        plan_rank_file(
            folder / f"rank_{graph.rank}" / PARAMETERS_FILE,
            graph.parameters,
            packings,
            written.rank_metadata(graph.rank),
        )
        for graph in graphs
    ]


def _manifest(
    config: BuildConfig,
    inputs: BuildInputs,
    graphs: Sequence[RankGraph],
    libraries: Sequence[manifest.Library],
    digest: str,
) -> Manifest:
    """The manifest, its files apart."""
    model, scheme = inputs.source.config, ModelPrecision.of(config).scheme
    return Manifest(
        schema_version=manifest.SCHEMA_VERSION,
        name=config.name,
        model=manifest.ModelDescription(
            label=inputs.source.label,
            model_type=model.model_type,
            vocab_size=model.vocab_size,
            hidden_size=model.hidden_size,
            num_layers=model.num_hidden_layers,
            num_heads=model.num_attention_heads,
            num_kv_heads=model.num_key_value_heads,
            num_parameters=sum(math.prod(inputs.checkpoint.tensors[name].shape) for name in _tensor_names(graphs)),
        ),
        precision=manifest.Precision(
            weights=config.backend.dtype,
            quantization=None if scheme is None else scheme.name,
            activations="float32" if scheme is None else scheme.activations,
            kv_cache="float16",
        ),
        tensor_parallel=inputs.num_ranks,
        limits=manifest.Limits(
            max_prefill_tokens=config.frontend.shape.max_prefill_tokens,
            max_context_tokens=inputs.max_context_tokens,
        ),
        kv_cache=manifest.KVCacheLayout(
            num_layers=model.num_hidden_layers,
            num_heads=graphs[0].num_kv_slots,
            page_tokens=PAGE_TOKENS,
            head_dim=model.head_dim,
        ),
        libraries=tuple(libraries),
        parameters=tuple(spec.name for spec in graphs[0].parameters),
        files={},
        toolchain=toolchain_versions(),
        checkpoint=manifest.SourceCheckpoint(path=str(inputs.checkpoint.directory), digest=digest),
        settings=effective_settings(config),
    )
