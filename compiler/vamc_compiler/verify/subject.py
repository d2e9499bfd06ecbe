"""What is verified: a build's model, graphs and runstream, gathered from a build or from a runstream on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
import yaml

from vamc_compiler.config import BuildConfig, load_config
from vamc_compiler.graph import RankGraph, make_rank_graphs
from vamc_compiler.model.registry import ModelSource, find_model
from vamc_compiler.model.source_code import find_source_code
from vamc_compiler.onnx_stage.external_weights import external_data_to_inputs
from vamc_compiler.package import onnx_folder
from vamc_compiler.parameters import ParameterSpec
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.stages import Stages
from vamc_compiler.trace.rank_module import build_rank, list_parameters, list_ranks
from vamc_compiler.verify.tokens import tokens_of
from vamc_compiler.weights.checkpoint import Checkpoint, digest_checkpoint, open_checkpoint
from vamc_compiler.weights.fit import fit_checkpoint
from vamc_runtime.errors import UserError
from vamc_runtime.manifest import Manifest
from vamc_runtime.runstream import Runstream, open_runstream


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One build, ready to be verified."""

    config: BuildConfig
    source: ModelSource
    checkpoint: Checkpoint
    graphs: tuple[RankGraph, ...]
    """Every rank's, traced and simplified."""
    runstream: Path
    manifest: Manifest

    @property
    def precision(self) -> ModelPrecision:
        """How weights are stored."""
        return ModelPrecision.of(self.config)

    @property
    def num_ranks(self) -> int:
        """Tensor-parallel degree."""
        return len(self.graphs)

    @property
    def parameters(self) -> list[tuple[ParameterSpec, ...]]:
        """Every rank's parameters."""
        return [graph.parameters for graph in self.graphs]

    def single_parameters(self, precision: ModelPrecision) -> list[ParameterSpec]:
        """The parameters of the model on one rank."""
        with torch.device("meta"):
            return list_parameters(build_rank(self.source, self.source.config.for_rank(0, 1), precision))


def config_of(runstream: Path, manifest: Manifest, overrides: Sequence[str], scratch: Path) -> BuildConfig:
    """The build config that a runstream's manifest records, with `--set` changes.

    Args:
        runstream: where it lies.
        manifest: its manifest.
        overrides: `key=value` texts.
        scratch: a folder for the settings as a file.

    Raises:
        UserError: the settings are of another version, or an override is wrong.
    """
    path = scratch / f"{manifest.name}.yaml"
    path.write_text(yaml.safe_dump(manifest.settings, allow_unicode=True), encoding="utf-8")
    try:
        return load_config(path, overrides)
    except UserError as error:
        if overrides and _loads(path):
            raise  # the mistake is in what was given now
        raise UserError(
            f"the settings in {runstream / 'manifest.json'} do not load:\n{error.found}",
            expected=error.expected,
            fix=error.fix or "compile the runstream again with this version",
        ) from error


def _loads(path: Path) -> bool:
    """Whether a config file has no mistake by itself."""
    try:
        load_config(path)
    except UserError:
        return False
    return True


def open_subject(
    runstream: Path, overrides: Sequence[str], scratch: Path, stages: Stages, *, trust_checkpoint_code: bool
) -> Subject:
    """Gather what it takes to verify a runstream: its graphs as they are stored, and traced once more.

    Raises:
        UserError: no runstream, one without ONNX graphs, a checkpoint that is gone or another one.
    """
    opened = open_runstream(runstream)
    manifest = opened.manifest
    config = config_of(runstream, manifest, overrides, scratch)
    stored = [_stored_graph(opened, rank) for rank in range(manifest.tensor_parallel)]
    source = find_model(
        config.frontend.checkpoint,
        find_source_code(runstream.resolve()),
        trust_checkpoint_code=trust_checkpoint_code,
        norm_head=config.frontend.model_kwargs.norm_head,
    )
    for warning in source.warnings:
        stages.reporter.warn(warning)
    # A mistake about the text shows before the work.
    tokens_of(config, opened.tokenizer_folder(), source.config.vocab_size)
    fitted = fit_checkpoint(
        source,
        open_checkpoint(config.frontend.checkpoint),
        lambda source: list_ranks(source, manifest.tensor_parallel, ModelPrecision.of(config)),
    )
    source, checkpoint = fitted.source, fitted.checkpoint
    with stages.stage("trace") as note:
        graphs = make_rank_graphs(
            source,
            manifest.tensor_parallel,
            ModelPrecision.of(config),
            num_workers=config.workspace.workers,
            on_progress=lambda done, total: stages.reporter.progress(done, total, "ranks"),
        )
        note.text = f"{manifest.tensor_parallel} rank{'s' * (manifest.tensor_parallel > 1)}"
    check_digest(runstream, manifest, checkpoint, graphs)
    return Subject(
        config=config,
        source=source,
        checkpoint=checkpoint,
        graphs=tuple(
            RankGraph(
                graph.rank,
                graph.traced,
                external_data_to_inputs(model).SerializeToString(deterministic=True),
                graph.parameters,
                graph.num_kv_slots,
            )
            for graph, model in zip(graphs, stored, strict=True)
        ),
        runstream=runstream,
        manifest=manifest,
    )


def _stored_graph(runstream: Runstream, rank: int) -> onnx.ModelProto:
    path = onnx_folder(runstream.path, rank) / "model.onnx"
    name = path.relative_to(runstream.path).as_posix()
    if name not in runstream.manifest.files:
        raise UserError(
            f"{runstream.path} has no ONNX graph of rank {rank}: manifest.json does not list {name}",
            expected="a runstream with the graphs that `vamc compile` stores in it",
            fix="compile the runstream again",
        )
    try:
        model = onnx.load_model_from_string(runstream.read(name))
    except UserError:
        raise
    except Exception as error:  # protobuf raises an error of its own
        raise UserError(f"{path} cannot be read: {error}", fix="compile the runstream again") from None
    if not model.graph.node:  # protobuf reads an empty file as an empty model
        raise UserError(f"{path} is empty", expected="an ONNX graph", fix="compile the runstream again")
    return model


def check_digest(runstream: Path, manifest: Manifest, checkpoint: Checkpoint, graphs: Sequence[RankGraph]) -> None:
    """Refuse to compare a runstream with another checkpoint than its own.

    Raises:
        UserError: the checkpoint's content is not what was compiled.
    """
    names = {name for graph in graphs for spec in graph.parameters for name in spec.tensors}
    found = digest_checkpoint(checkpoint, names)
    if found != manifest.checkpoint.digest:
        raise UserError(
            f"{checkpoint.directory} is not the checkpoint that {runstream} was compiled from: "
            f"its digest is {found[:16]}, and the runstream's is {manifest.checkpoint.digest[:16]}",
            expected=f"the checkpoint as it was at {manifest.checkpoint.path}",
            fix="give its place with --set frontend.checkpoint=DIR, or compile the runstream again",
        )
