"""Reports built by hand: what a verification could find, without running one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from vamc_compiler.verify.result import (
    BlockError,
    BudgetLine,
    ErrorStatistics,
    Location,
    LogitMetrics,
    PairResult,
    TokenSource,
    VerificationReport,
    WorstToken,
)

HOSTILE = "<script>alert('x')</script> & \"双引号\" \x00\x1b[31m\ud800\u202e ]]>"
"""Text that would be markup, control characters, a lone surrogate, a change of direction."""


def make_statistics(size: float) -> ErrorStatistics:
    return ErrorStatistics(mean=size, median=0.8 * size, p99=4 * size, p999=7 * size, max=12 * size)


def make_metrics(kl: float, *, same_top: float = 1.0, positions: int = 511) -> LogitMetrics:
    """Metrics whose figures fit together roughly."""
    error = math.sqrt(kl)
    return LogitMetrics(
        num_positions=positions,
        absolute=make_statistics(3 * error),
        relative=make_statistics(error),
        cosine_min=1 - 3 * kl,
        cosine_mean=1 - kl,
        kl_mean=kl,
        kl_median=0.6 * kl,
        kl_p999=20 * kl,
        kl_max=31 * kl,
        same_top=same_top,
        same_decided=min(1.0, same_top + 0.005),
        top5_overlap=same_top,
        perplexity_before=8.317,
        perplexity_after=8.317 * (1 + 3 * kl),
        perplexity_ratio=1 + 3 * kl,
        perplexity_ratio_low=1 - kl,
        perplexity_ratio_high=1 + 7 * kl,
    )


def make_blocks(size: float, *, num_layers: int = 4, wrong_layer: int | None = None) -> tuple[BlockError, ...]:
    """Embedding, attention and feed-forward of every layer, head; errors grow, and jump at a wrong layer."""
    names = ["embedding"]
    for layer in range(num_layers):
        names += [f"layer {layer} attention", f"layer {layer} feed-forward"]
    names.append("head")
    noise = np.random.default_rng(7).lognormal(0, 0.3, (len(names), 2))
    blocks, accumulated = [], 0.0
    for index, name in enumerate(names):
        wrong = name == f"layer {wrong_layer} attention"
        own = 0.0 if index == 0 else size * float(noise[index, 0]) * (3e4 if wrong else 1)
        accumulated = math.hypot(accumulated, own / 3)
        blocks.append(
            BlockError(
                index=index,
                block=name,
                tap=f"model.layers.{index // 2}.input_layernorm.in",
                accumulated=accumulated,
                isolated=None if index == 0 else own,
                isolated_rms=None if index == 0 else own / 3,
                worst_token=None if index == 0 else 13 * index,
            )
        )
    return tuple(blocks)


def make_kl(mean: float, count: int = 511) -> tuple[float, ...]:
    """KL values with the heavy tail that real ones have, and some zeros."""
    values = np.random.default_rng(3).lognormal(math.log(mean) - 1.2, 1.6, count)
    values[:20] = 0
    return tuple(float(value) for value in values)


def make_budgets(metrics: LogitMetrics, kl: float, same: float, block: float, blocks: float) -> tuple[BudgetLine, ...]:
    return (
        BudgetLine(name="mean KL", value=metrics.kl_mean, limit=kl),
        BudgetLine(name="99.9 % KL", value=metrics.kl_p999, limit=100 * kl),
        BudgetLine(name="same top token", value=metrics.same_decided, limit=same, at_least=True),
        BudgetLine(name="perplexity ratio", value=metrics.perplexity_ratio, limit=1.001),
        BudgetLine(name="isolated error of a block", value=blocks, limit=block),
    )


WORST = (
    WorstToken(
        position=212,
        context="The ferry left the harbour at nine and the",
        expected=" crew",
        found=" sea",
        actual=" passengers",
        kl=0.084,
    ),
    WorstToken(position=71, context="他把信折好,放进信封里,然后", expected="走", found="把", actual="走", kl=0.051),
    WorstToken(position=403, context="line one\nline two\n", expected="\n", found="", actual="  ", kl=0.0312),
)


def make_pair(before: str, after: str, check: str = "prefill", *, kl: float = 4e-9, layers: int = 4) -> PairResult:
    """A comparison within its budget."""
    metrics = make_metrics(kl)
    return PairResult(
        before=before,
        after=after,
        check=check,
        budgets=make_budgets(metrics, kl=1e-5, same=0.999, block=1e-2, blocks=3 * math.sqrt(kl)),
        metrics=metrics,
        blocks=make_blocks(math.sqrt(kl), num_layers=layers),
        kl=make_kl(kl),
        worst_tokens=WORST,
        seconds=2.41,
    )


def make_wrong_pair(before: str, after: str, check: str = "prefill", *, layers: int = 4) -> PairResult:
    """A comparison far outside its budget: one rank has another's shard."""
    metrics = make_metrics(0.31, same_top=0.41)
    return PairResult(
        before=before,
        after=after,
        check=check,
        budgets=make_budgets(metrics, kl=1e-5, same=0.999, block=1e-2, blocks=1.8),
        metrics=metrics,
        blocks=make_blocks(6e-5, num_layers=layers, wrong_layer=2),
        kl=make_kl(0.31),
        worst_tokens=WORST,
        location=Location(
            stage=after,
            block="layer 2 attention",
            op="Linear model.layers.2.self_attn.o_proj",
            ranks=(1,),
            detail="isolated error 1.8, at most 0.01",
        ),
        seconds=3.07,
    )


def make_report(*pairs: PairResult, warnings: tuple[str, ...] = ()) -> VerificationReport:
    return VerificationReport(
        name="baichuan2-13b-mini_int8_tp2",
        model="Baichuan (ALiBi, NormHead)",
        precision="int8_per_channel",
        num_ranks=2,
        tokens=TokenSource(description="built-in sample, 2 sequences of 256", num_tokens=512, digest="3f" * 32),
        reference="plain implementation beside the checkpoint, float32",
        pairs=pairs,
        checkpoint_digest="c0ffee" * 10 + "abcd",
        toolchain={
            "python": "3.12.11",
            "vamc": "0.1.0",
            "torch": "2.13.0",
            "apache-tvm": "0.27.0.post1",
            "onnx": "1.23.1",
        },
        cpu="Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        library="x86-64-v4 with AMX",
        date="2026-05-04T09:30:12+00:00",
        seconds=41.8,
        warnings=warnings,
    )


def passing_report() -> VerificationReport:
    return make_report(
        make_pair("original", "patched modeling", kl=2e-13),
        make_pair("patched modeling", "exported ONNX", kl=3e-13),
        make_pair("exported ONNX", "simplified ONNX", kl=1e-14),
        make_pair("simplified ONNX", "compiled", kl=2.6e-7),
        make_pair("compiled", "compiled", "chunked prefill", kl=1e-12),
        make_pair("compiled", "compiled", "cached decode", kl=1e-12),
        make_pair("compiled", "compiled over 2 ranks", kl=4e-9),
        PairResult(
            before="checkpoint",
            after="rank weights",
            check="weights",
            budgets=(BudgetLine(name="tensors that differ", value=0, limit=0),),
            seconds=0.6,
        ),
    )


def failing_report() -> VerificationReport:
    good = passing_report()
    wrong = make_wrong_pair("compiled", "compiled over 2 ranks")
    pairs = (*good.pairs[:6], wrong, good.pairs[7])
    return make_report(*pairs, warnings=("No text was given: the built-in sample was used.",))


def deep_report() -> VerificationReport:
    """80 layers, hundreds of positions."""
    return make_report(
        make_pair("original", "patched modeling", kl=2e-13, layers=80),
        make_pair("simplified ONNX", "compiled", kl=2.6e-7, layers=80),
        make_wrong_pair("compiled", "compiled over 4 ranks", layers=80),
    )


def odd_report() -> VerificationReport:
    """What is not a number in every place where it could be."""
    nan, infinity = math.nan, math.inf
    metrics = dataclasses.replace(
        make_metrics(1e-3),
        kl_mean=nan,
        kl_max=infinity,
        same_top=nan,
        perplexity_after=infinity,
        perplexity_ratio=infinity,
        absolute=make_statistics(nan),
    )
    blocks = make_blocks(1e-4)
    blocks = (
        *blocks[:5],
        dataclasses.replace(blocks[5], accumulated=nan, isolated=nan),
        *(dataclasses.replace(b, accumulated=nan, isolated=infinity, isolated_rms=nan) for b in blocks[6:]),
    )
    pair = PairResult(
        before="simplified ONNX",
        after="compiled",
        check="prefill",
        budgets=make_budgets(metrics, kl=1e-5, same=0.999, block=1e-2, blocks=infinity),
        metrics=metrics,
        blocks=blocks,
        kl=(*make_kl(1e-6, 300), *[nan] * 150, infinity, -1e-18),
        worst_tokens=(WorstToken(position=9, context="a", expected="b", found="c", actual="d", kl=nan),),
        location=Location(stage="compiled", block="layer 2 attention"),
    )
    empty = dataclasses.replace(pair, check="cached decode", blocks=(), kl=(nan, nan), worst_tokens=(), location=None)
    return make_report(pair, empty)


def hostile_report() -> VerificationReport:
    """Every text of a report is one that wants to be markup."""
    worst = WorstToken(position=1, context=HOSTILE, expected=HOSTILE, found=HOSTILE, actual=HOSTILE, kl=0.1)
    pair = make_wrong_pair(HOSTILE, HOSTILE, HOSTILE)
    pair = dataclasses.replace(
        pair,
        budgets=(*pair.budgets, BudgetLine(name=HOSTILE, value=2, limit=1)),
        blocks=tuple(dataclasses.replace(block, block=HOSTILE, tap=HOSTILE) for block in pair.blocks),
        worst_tokens=(worst,),
        location=Location(stage=HOSTILE, block=HOSTILE, op=HOSTILE, detail=HOSTILE),
    )
    return dataclasses.replace(
        make_report(pair, warnings=(HOSTILE,)),
        name=HOSTILE,
        model=HOSTILE,
        precision=HOSTILE,
        tokens=TokenSource(description=HOSTILE, num_tokens=1, digest=HOSTILE),
        reference=HOSTILE,
        checkpoint_digest=HOSTILE,
        toolchain={HOSTILE: HOSTILE},
        cpu=HOSTILE,
        library=HOSTILE,
        date=HOSTILE,
    )
