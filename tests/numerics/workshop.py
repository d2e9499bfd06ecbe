"""Small random models, built clean or while a mutation's patch is in effect, and their verification."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from code_edits import edited, replaced
from mutation import COMPILED, SOURCE_CODE, Case, Edit, Mutation
from rank_bytes import record_again
from safetensors.torch import save_file

from vamc_compiler.compile import CompileRequest, build_runstream, check_inputs, subject_of
from vamc_compiler.config import BuildConfig, load_config
from vamc_compiler.graph import RankGraph, make_rank_graph, parse_model
from vamc_compiler.model.registry import ModelSource, find_model
from vamc_compiler.precision import ModelPrecision
from vamc_compiler.stages import SilentReporter, Stages
from vamc_compiler.trace.export import TracedRank
from vamc_compiler.trace.rank_module import build_rank, list_parameters
from vamc_compiler.verify.bisect import Case as Bisected
from vamc_compiler.verify.bisect import bisect
from vamc_compiler.verify.result import PairResult, VerificationReport
from vamc_compiler.verify.subject import Subject
from vamc_compiler.verify.verification import EVERYTHING, SHORT, Failure, Part, Request, verify
from vamc_compiler.weights.checkpoint import open_checkpoint
from vamc_runtime.manifest import read_manifest

REPOSITORY = Path(__file__).resolve().parents[2]
MCPU = "x86-64-v3"
"""Compiles in half the time of a library for AVX-512, and runs wherever the tests do."""
NUM_TOKENS, CONTEXT = 96, 128
MODELS: dict[str, dict[str, Any]] = {
    "alibi": {"model_type": "baichuan", "model_max_length": CONTEXT, "z_loss_weight": 0},
    "rotary": {"model_type": "llama", "num_key_value_heads": 2, "max_position_embeddings": CONTEXT},
}
# Few different widths: a kernel for each is compiled. 6 heads are padded to 8 on 4 ranks.
SIZES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "rms_norm_eps": 1e-6,
    "vocab_size": 288,
}
PRECISIONS = {
    "fp16": ("fp16", "", ""),
    "fp16 prefill bf16": ("fp16", "", ", compile: {prefill_precision: bf16}"),
    "bf16": ("bf16", "", ""),
    "int8": ("int8", ", quantize: {type: int8_per_channel}", ""),
    "w8a8": ("int8", ", quantize: {type: w8a8_dynamic}", ""),
}
"""`backend.dtype`, and what front end and back end add."""
PARTS: dict[str, frozenset[Part]] = {
    "modeling": frozenset(("reference", "modeling")),
    "modeling and trace": frozenset(("reference", "modeling")),
    "graph": frozenset(("modeling", "graphs")),
    "library": frozenset(("modeling", "compiled")),
    "stale library": frozenset(("modeling", "compiled")),
    "weights": frozenset(("modeling", "weights", "compiled")),
    "files": frozenset(("modeling", "weights", "compiled")),
}
"""The stages that are run for each kind of mutation: the one that is wrong, and what it is compared with."""
WHOLE_BUILD = ("modeling", "modeling and trace", "graph")
"""Mutations whose edits are in effect during all of a build when its own verification has to see them."""


def _shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Tensors of a checkpoint."""
    width, inner, vocab = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["vocab_size"]
    kv_width = width * MODELS[model].get("num_key_value_heads", 0) // SIZES["num_attention_heads"]
    separate = {"q_proj": width, "k_proj": kv_width, "v_proj": kv_width}
    projections = {"W_pack": 3 * width} if model == "alibi" else separate
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (vocab, width),
    }
    for layer in range(SIZES["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        for name, outputs in (projections | {"o_proj": width}).items():
            shapes[f"{path}.self_attn.{name}.weight"] = (outputs, width)
        for name, shape in {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}.items():
            shapes[f"{path}.mlp.{name}_proj.weight"] = shape
        shapes[f"{path}.input_layernorm.weight"] = shapes[f"{path}.post_attention_layernorm.weight"] = (width,)
    return shapes


def write_checkpoint(model: str, directory: Path) -> Path:
    """Random weights, larger than at the start of a training: attention has to matter."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(SIZES | MODELS[model]), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)

    def tensor(shape: tuple[int, ...]) -> torch.Tensor:
        values = torch.randn(shape, generator=generator)
        return 1 + 0.1 * values if len(shape) == 1 else values * (2 / shape[1] ** 0.5)

    tensors = {name: tensor(shape).to(torch.float16) for name, shape in _shapes(model).items()}
    save_file(tensors, directory / "model.safetensors")
    return directory


class Workshop:
    """Checkpoints and clean builds, each made once.

    Args:
        folder: for everything that is written.
        mcpus: what is compiled for.
    """

    def __init__(self, folder: Path, mcpus: Sequence[str] = (MCPU,)) -> None:
        self._folder = folder
        self._mcpus = tuple(mcpus)
        self._count = 0
        self._clean: dict[Case, Subject] = {}
        self.verified = functools.cache(self._verified)
        self._checkpoint = functools.cache(lambda model: write_checkpoint(model, self.new_folder() / "checkpoint"))

    def new_folder(self) -> Path:
        """An empty one."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        return folder

    def _config(self, case: Case, folder: Path) -> BuildConfig:
        dtype, quantize, backend = PRECISIONS[case.precision]
        (folder / "build.yaml").write_text(
            f"name: mutated\nworkspace: {{path: {folder}, workers: 1}}\n"
            f"frontend: {{checkpoint: {self._checkpoint(case.model)}, shape: {{input_ids: [[{CONTEXT}], [{CONTEXT}]]}},"
            f" model_kwargs: {{tp: {case.num_ranks}}}{quantize}}}\n"
            f"backend: {{dtype: {dtype}, target: {{mcpu: [{', '.join(self._mcpus)}]}}{backend}}}\n"
            f"verify: {{when: off, tokens: {NUM_TOKENS}}}\n",
            encoding="utf-8",
        )
        return load_config(folder / "build.yaml")

    def compiled(
        self,
        case: Case,
        folder: Path,
        edits: Sequence[Edit] = (),
        graphs: Sequence[RankGraph] | None = None,
        library: Path | None = None,
    ) -> Subject:
        """Compile a case while edits are in effect.

        Args:
            case: what to compile.
            folder: for config and runstream; `source_code` in it is used.
            edits: of functions.
            graphs: taken instead of traced ones.
            library: a runstream whose library is taken instead of a compiled one.
        """
        request = CompileRequest(config=self._config(case, folder))
        stages = Stages(SilentReporter())
        inputs = check_inputs(request, stages.reporter)
        source = find_model(inputs.checkpoint.directory, _source_code(folder), trust_checkpoint_code=False)
        (folder / "runstream").mkdir()
        with contextlib.ExitStack() as stack:
            made = _graphs(source, case, ModelPrecision.of(request.config)) if graphs is None else graphs
            stack.enter_context(mock.patch("vamc_compiler.compile.make_rank_graphs", lambda *_, **__: list(made)))
            if library is not None:
                take = functools.partial(_take_library, library)
                stack.enter_context(mock.patch("vamc_compiler.compile.build_library", take))
            stack.enter_context(edited(edits))
            built = build_runstream(request, inputs, folder / "runstream", stages)
        return subject_of(request.config, inputs, built)

    def clean(self, case: Case) -> Subject:
        """The unmutated build; its library and weights only where the case is compiled."""
        if case not in self._clean:
            make = self.compiled if case in COMPILED.values() else self.traced
            self._clean[case] = make(case, self.new_folder())
        return self._clean[case]

    def traced(self, case: Case, folder: Path, graph: RankGraph | None = None) -> Subject:
        """Graphs and parameters without anything compiled; where a rank's graph is given, it is not made again."""
        config = self._config(case, folder)
        source = find_model(config.frontend.checkpoint, _source_code(folder), trust_checkpoint_code=False)
        graphs = _graphs(source, case, ModelPrecision.of(config), graph)
        manifest = self.clean(COMPILED[case.model]).manifest
        return Subject(
            config=config,
            source=source,
            checkpoint=open_checkpoint(config.frontend.checkpoint),
            graphs=graphs,
            runstream=folder / "none",
            manifest=replace(manifest, kv_cache=replace(manifest.kv_cache, num_heads=graphs[0].num_kv_slots)),
        )

    def mutated(self, mutation: Mutation) -> Subject:
        """Build with the mutation; edits of modeling functions have to be in effect already."""
        folder, during, case = self.new_folder(), mutation.during, mutation.case
        _write_source_code(mutation.edits, folder)
        clean = self.clean(case)
        if during == "modeling":
            return self.traced(case, folder, clean.graphs[0])
        if during == "modeling and trace":
            return self.traced(case, folder)
        if during == "graph":
            with edited(mutation.edits):
                graph = _graph_again(clean)
            return self.traced(case, folder, graph)
        if during == "library":
            return self.compiled(case, folder, mutation.edits, clean.graphs)
        if during == "weights":
            return self.compiled(case, folder, mutation.edits, clean.graphs, clean.runstream)
        shutil.copytree(clean.runstream, folder / "damaged")
        if during == "stale library":
            stale = self.compiled(case, folder)
            shutil.copytree(stale.runstream / "lib", folder / "damaged" / "lib", dirs_exist_ok=True)
        if mutation.damage is not None:
            mutation.damage(folder / "damaged")
        return replace(clean, runstream=folder / "damaged", manifest=record_again(folder / "damaged"))

    def _verified(self, mutation: Mutation) -> VerificationReport:
        """Build with the mutation, and verify; mistakes of modeling code are made while it runs.

        Where there is a runstream, as a build verifies it too: `short_pairs` are what that sees.
        """
        self.clean(mutation.case)  # made before anything is edited
        in_effect = mutation.edits if mutation.during.startswith("modeling") else ()
        parts = PARTS[mutation.during] | (frozenset() if mutation.during in WHOLE_BUILD else SHORT)
        with edited(in_effect):
            return report(self.mutated(mutation), parts)

    def certified(self, mutation: Mutation) -> list[PairResult]:
        """What a build says that has the mistake in all that it runs: the comparisons of its own verification."""
        if mutation.during not in WHOLE_BUILD:
            return short_pairs(self.verified(mutation))
        self.clean(mutation.case)
        folder = self.new_folder()
        _write_source_code(mutation.edits, folder)
        with edited(mutation.edits):
            return list(report(self.compiled(mutation.case, folder), SHORT).pairs)

    def bisected(self, mutation: Mutation) -> Bisected:
        """Build with the mutation of a runstream, verify what is compiled, and bisect."""
        subject, folder = self.mutated(mutation), self.new_folder() / "case"
        found: list[Bisected | None] = []
        report(subject, PARTS["library"], lambda failure: found.append(bisect(failure, subject, folder)))
        assert len(found) == 1 and found[0] is not None, "the first pair that fails is bisected, once"
        return found[0]


def short_pairs(found: VerificationReport) -> list[PairResult]:
    """Of a report those comparisons that a build makes as well."""
    before = ("original", "checkpoint", "compiled")
    after = ("weights", "compiled")
    return [pair for pair in found.pairs if pair.before.startswith(before) and pair.after.startswith(after)]


def report(
    subject: Subject, parts: frozenset[Part] = EVERYTHING, on_failure: Callable[[Failure], None] | None = None
) -> VerificationReport:
    """Verify without a word."""
    return verify(Request(subject=subject, parts=parts), Stages(SilentReporter()), on_failure).report


def _source_code(folder: Path) -> Path:
    own = folder / SOURCE_CODE
    return own if own.is_dir() else REPOSITORY / SOURCE_CODE


def _write_source_code(edits: Sequence[Edit], folder: Path) -> None:
    """A copy of the modeling files with the edits that are for them; none where there are no such edits."""
    for edit in edits:
        if edit.place.startswith(SOURCE_CODE):
            if not (folder / SOURCE_CODE).exists():
                hidden = shutil.ignore_patterns("__pycache__")
                shutil.copytree(REPOSITORY / SOURCE_CODE, folder / SOURCE_CODE, ignore=hidden)
            file = folder / edit.place
            file.write_text(replaced(file.read_text(encoding="utf-8"), edit), encoding="utf-8")


def _graphs(
    source: ModelSource, case: Case, precision: ModelPrecision, graph: RankGraph | None = None
) -> tuple[RankGraph, ...]:
    """Every rank's graph with its own parameters; the graphs are alike, so that one is traced."""
    traced = graph or make_rank_graph(source, case.num_ranks, precision, 0)

    def of_rank(rank: int) -> RankGraph:
        with torch.device("meta"):
            model = build_rank(source, source.config.for_rank(rank, case.num_ranks), precision)
        return replace(traced, rank=rank, parameters=tuple(list_parameters(model)))

    return tuple(map(of_rank, range(case.num_ranks)))


def _graph_again(subject: Subject) -> RankGraph:
    """Rank 0's graph, made once more from what was traced."""
    graph = subject.graphs[0]
    traced = TracedRank(parse_model(graph.traced), graph.parameters, graph.num_kv_slots)
    with mock.patch("vamc_compiler.graph.trace_rank", lambda *_, **__: traced):
        return make_rank_graph(subject.source, subject.num_ranks, subject.precision, 0)


def _take_library(runstream: Path, module: Any, target: Any, folder: Path, *_: Any) -> Any:
    """Stands for `build_library`: another build's library."""
    shutil.copytree(runstream / "lib", folder / "lib")
    return read_manifest(runstream).libraries[0]
