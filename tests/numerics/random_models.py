"""Random models that are hard where trained ones are: sharp attention, outlier channels, massive activations.

A `Template` is compiled once; graphs and code do not depend on the weights, so further seeds only rewrite these.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from vamc_compiler.compile import PARAMETERS_FILE, CompileRequest, build_runstream, check_inputs, subject_of
from vamc_compiler.config import load_config
from vamc_compiler.kernels.instruction_set import InstructionSet
from vamc_compiler.kernels.table import KernelTable
from vamc_compiler.packing import Packing
from vamc_compiler.relax_stage.importer import import_step
from vamc_compiler.stages import SilentReporter, Stages
from vamc_compiler.verify.subject import Subject
from vamc_compiler.weights.writer import plan_rank_file, write_rank_files
from vamc_runtime.manifest import FILE_NAME, FileRecord, hash_file

Precision = Literal["fp16", "bf16", "int8_per_channel", "w8a8_dynamic"]
PRECISIONS: tuple[Precision, ...] = ("fp16", "bf16", "int8_per_channel", "w8a8_dynamic")
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
OUTLIER = 30.0
"""How much larger an outlier is than the rest, about as in published models."""


def _sizes(hidden: int, intermediate: int, heads: int, layers: int, vocab: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
        "rms_norm_eps": 1e-6,
        "torch_dtype": "bfloat16",
    }


def llama(*sizes: int, **more: Any) -> dict[str, Any]:
    """config.json of a LLaMA: hidden, intermediate, heads, layers, vocabulary, and further keys."""
    return {"model_type": "llama", "max_position_embeddings": 1024, **_sizes(*sizes), **more}


def baichuan7b(*sizes: int) -> dict[str, Any]:
    """config.json of a Baichuan2 with rotary positions."""
    return {**baichuan13b(*sizes), "max_position_embeddings": 1024}


def baichuan13b(*sizes: int) -> dict[str, Any]:
    """config.json of a Baichuan2 with ALiBi."""
    return {"model_type": "baichuan", "model_max_length": 1024, "z_loss_weight": 0, **_sizes(*sizes)}


SMALL: Mapping[str, tuple[dict[str, Any], ...]] = {
    "LLaMA": (
        llama(96, 200, 6, 3, 333, num_key_value_heads=2),
        llama(64, 160, 4, 4, 500, tie_word_embeddings=True, rope_theta=500000.0, rope_scaling=LLAMA3),
        llama(128, 352, 4, 2, 1000),
        llama(60, 101, 5, 3, 301, head_dim=20, num_key_value_heads=5),
    ),
    "Baichuan 7B": (
        baichuan7b(96, 200, 6, 3, 333),
        baichuan7b(64, 176, 2, 4, 640),
        baichuan7b(128, 352, 4, 2, 1000),
        baichuan7b(60, 101, 3, 3, 301),
    ),
    "Baichuan 13B": (
        baichuan13b(80, 216, 5, 3, 333),
        baichuan13b(64, 176, 4, 4, 640),
        baichuan13b(144, 352, 6, 2, 1000),
        baichuan13b(60, 101, 3, 3, 301),
    ),
}
"""Shapes of each architecture that compile in seconds; heads that are no power of two, sizes that no vector divides."""


@dataclass(frozen=True)
class Style:
    """What a random model has in common with trained ones."""

    name: str
    sharpness: float = 1.2
    """Standard deviation of query and key elements: scores have about its square."""
    logits: float = 2.0
    """Standard deviation of the logits."""
    growth: float = 1.0
    """Size of what a block adds to the stream."""
    outliers: Literal["", "alone", "among others"] = ""
    """Three channels of every norm are 30 times the others. Alone: the rest hardly counts. Among others: the weights
    that read them are smaller, so that the rest counts too, as in trained models."""
    massive: bool = False
    """A channel of the stream that the first layer makes large and the norms keep small."""


STYLES = (
    Style("plain"),
    Style("sharp attention", sharpness=1.6, logits=2.5),
    Style("outlier channels", outliers="alone"),
    Style("outlier channels among others", outliers="among others"),
    Style("massive activation, growing stream", growth=2.0, massive=True),
)


def draw_weights(config: Mapping[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Random tensors of a checkpoint, bfloat16; the seed also chooses the style."""
    style, random = STYLES[seed % len(STYLES)], torch.Generator().manual_seed(seed)
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    key_value = width * (config.get("num_key_value_heads") or heads)
    channels = torch.randperm(hidden, generator=random)[:4]
    outliers, massive = channels[:3], int(channels[3])
    tensors: dict[str, torch.Tensor] = {}

    def matrix(name: str, rows: int, columns: int, deviation: float, norm: torch.Tensor | None = None) -> torch.Tensor:
        """A weight whose outputs have the given standard deviation; `norm` scales what it reads."""
        weight = torch.randn(rows, columns, generator=random)
        seen = torch.ones(columns) if norm is None else norm.clone()
        if norm is not None and style.outliers == "among others":
            weight[:, outliers] /= math.sqrt(OUTLIER)
            seen[outliers] /= math.sqrt(OUTLIER)
        weight *= deviation / seen.norm()
        tensors[f"{name}.weight"] = weight
        return weight

    def norm(name: str) -> torch.Tensor:
        weight = torch.rand(hidden, generator=random) + 0.5
        if style.outliers:
            weight[outliers] *= OUTLIER
        if style.massive:
            weight[massive] /= OUTLIER
        tensors[f"{name}.weight"] = weight
        return weight

    matrix("model.embed_tokens", config["vocab_size"], hidden, 0.1 * math.sqrt(hidden))
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        before = norm(f"{path}.input_layernorm")
        if config["model_type"] == "llama":
            matrix(f"{path}.self_attn.q_proj", heads * width, hidden, style.sharpness, before)
            matrix(f"{path}.self_attn.k_proj", key_value, hidden, style.sharpness, before)
            matrix(f"{path}.self_attn.v_proj", key_value, hidden, 1.0, before)
        else:
            packed = matrix(f"{path}.self_attn.W_pack", 3 * hidden, hidden, style.sharpness, before)
            packed[2 * hidden :] /= style.sharpness
        matrix(f"{path}.self_attn.o_proj", hidden, heads * width, style.growth)
        before = norm(f"{path}.post_attention_layernorm")
        for name in ("gate", "up"):
            matrix(f"{path}.mlp.{name}_proj", config["intermediate_size"], hidden, 1.0, before)
        down = matrix(f"{path}.mlp.down_proj", hidden, config["intermediate_size"], style.growth)
        if style.massive and layer == 0:
            down[massive] *= OUTLIER
    last = norm("model.norm")
    if config["model_type"] == "baichuan":
        # Baichuan2 divides the head's rows by their length: the last norm makes the logits what they are.
        last *= style.logits * math.sqrt(hidden) / last.norm()
    if not config.get("tie_word_embeddings"):
        matrix("lm_head", config["vocab_size"], hidden, style.logits, last)
    else:
        last *= style.logits / (0.1 * last.norm())
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Template:
    """A compiled random model whose weights can be replaced."""

    subject: Subject
    packings: Mapping[str, Packing]

    def with_seed(self, seed: int) -> Subject:
        """The same model with other weights; replaces those of every subject that this template gave before."""
        subject = self.subject
        save_file(draw_weights(subject.source.config.raw, seed), subject.checkpoint.directory / "model.safetensors")
        paths = [subject.runstream / f"rank_{graph.rank}" / PARAMETERS_FILE for graph in subject.graphs]
        files = [
            plan_rank_file(
                path,
                graph.parameters,
                self.packings,
                subject.manifest.rank_metadata(graph.rank),
            )
            for path, graph in zip(paths, subject.graphs, strict=True)
        ]
        write_rank_files(files, subject.checkpoint, num_workers=1, on_progress=lambda done, total: None)
        records = {
            path.relative_to(subject.runstream).as_posix(): FileRecord(
                num_bytes=path.stat().st_size, sha256=hash_file(path)
            )
            for path in paths
        }
        manifest = dataclasses.replace(subject.manifest, files={**subject.manifest.files, **records})
        (subject.runstream / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
        return dataclasses.replace(subject, manifest=manifest)


def compile_template(
    folder: Path, config: Mapping[str, Any], precision: Precision, *, tp: int, tokens: int, seed: int = 0
) -> Template:
    """Compile a random model into a new folder; verified with `tokens` tokens."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(draw_weights(config, seed), checkpoint / "model.safetensors")
    quantize = f"\n  quantize: {{type: {precision}}}" if "8" in precision else ""
    (folder / "build.yaml").write_text(
        f"name: random\nfrontend:\n  checkpoint: checkpoint\n  shape: {{input_ids: [[128], [512]]}}\n"
        f"  model_kwargs: {{tp: {tp}}}{quantize}\n"
        f"backend: {{dtype: {'int8' if quantize else precision}}}\n"
        f"workspace: {{path: {folder / 'out'}, workers: 1}}\nverify: {{tokens: {tokens}}}\n",
        encoding="utf-8",
    )
    request = CompileRequest(config=load_config(folder / "build.yaml"))
    reporter = SilentReporter()
    inputs = check_inputs(request, reporter)
    runstream = folder / "runstream"
    runstream.mkdir()
    subject = subject_of(request.config, inputs, build_runstream(request, inputs, runstream, Stages(reporter)))
    step = import_step(
        subject.graphs[0].model(),
        subject.graphs[0].parameters,
        KernelTable(InstructionSet.of(inputs.targets[0].requires), bfloat16_prefill=False),
        max_step_tokens=128,
    )
    return Template(subject, dict(step.packings))


def figures_of(report: Any) -> Iterator[tuple[str, str, Any]]:
    """Every pair's name, figure and line."""
    for pair in report.pairs:
        for line in pair.budgets:
            yield f"{pair.before} -> {pair.after} ({pair.check})", line.name, line
