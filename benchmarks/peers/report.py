"""The result as JSON and as Markdown."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from entries import ENTRIES
from measurement import Plan, Sample
from quiet import broken_rules, outside_the_rules
from shapes import SHAPES
from targets import TARGETS, Target, fastest, ratios, speeds


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that one run of the benchmark found."""

    plan: Plan
    conditions: dict[str, Any]
    """Machine, date, versions of what is not a contestant."""
    samples: list[Sample]
    facts: dict[str, dict[str, str]]
    """What each contestant says about itself."""
    memory_bytes: dict[str, int]
    """Peak resident size of each contestant's process after warming up."""
    skipped: dict[str, str]
    """Contestants without figures, and why."""

    @property
    def quiet(self) -> list[Sample]:
        """The samples that others hardly disturbed; tables and ratios are made of these."""
        return [sample for sample in self.samples if sample.foreign_cores <= self.plan.foreign_cores]

    def phases(self) -> list[str]:
        """In the order in which they are measured."""
        return list(dict.fromkeys(sample.phase for sample in self.samples))

    def contestants(self) -> list[str]:
        """Those with figures, in the order of `ENTRIES`."""
        measured = {sample.contestant for sample in self.samples}
        return [name for name in ENTRIES if name in measured]


def spread(values: Sequence[float], digits: int) -> str:
    """Median (smallest to largest)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def row(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def agreement(report: Report, name: str) -> str:
    """In how many rounds a contestant's prefill chose the token that most of all contestants chose.

    Random weights leave small gaps between the best tokens, so int8 may differ now and then. A contestant that hardly
    ever agrees computes something else than the model.
    """
    chosen: dict[int, list[tuple[str, int | None]]] = {}
    for sample in report.samples:
        if sample.phase == "prefill":
            chosen.setdefault(sample.round, []).append((sample.contestant, sample.token))
    agreed = total = 0
    for tokens in chosen.values():
        majority = statistics.mode(token for _, token in tokens)
        agreed += (name, majority) in tokens
        total += any(contestant == name for contestant, _ in tokens)
    return f"{agreed}/{total}"


def speed_table(report: Report) -> list[str]:
    """Tokens per second of every contestant."""
    phases = report.phases()
    lines = [row("contestant", *(f"{phase}, tok/s" for phase in phases), "peak memory, GiB", "same token")]
    lines.append("|---|" + "---:|" * (len(phases) + 2))
    for name in report.contestants():
        found = [list(speeds(report.quiet, name, phase).values()) for phase in phases]
        cells = [spread(values, 1) if values else "disturbed" for values in found]
        memory = f"{report.memory_bytes[name] / 2**30:.1f}"
        lines.append(row(ENTRIES[name].title, *cells, memory, agreement(report, name)))
    return lines


def target_result(report: Report, target: Target) -> dict[str, Any]:
    """The peer that decides a target, and the ratio to it in every round; no ratios without figures."""
    peer = fastest(report.quiet, target.peers, target.phase)
    found = ratios(report.quiet, target.contestant, peer, target.phase) if peer else []
    median = statistics.median(found) if found else None
    return {
        **dataclasses.asdict(target),
        "peer": peer,
        "ratios": found,
        "median": median,
        "reached": None if median is None else median >= target.factor,
    }


def target_table(report: Report) -> list[str]:
    """Required and measured ratios."""
    lines = [
        row("phase", "vamc", "peer", "required", "ratio, median (range)", "rounds", "reached"),
        "|---|---|---|---:|---:|---:|---|",
    ]
    for target in TARGETS:
        result = target_result(report, target)
        best = "fastest of several: " if len(target.peers) > 1 else ""
        peer = ENTRIES[result["peer"]].title if result["peer"] else "none measured"
        ratio = spread(result["ratios"], 2) if result["ratios"] else "not measured"
        reached = {True: "yes", False: "no", None: ""}[result["reached"]]
        title = ENTRIES[target.contestant].title
        rounds = str(len(result["ratios"]))
        lines.append(row(target.phase, title, best + peer, f"{target.factor:.2f}", ratio, rounds, reached))
    return lines


def ratio_table(report: Report, phase: str) -> list[str]:
    """Median of the ratio of each vamc variant to each peer of its group."""
    ours = [name for name in report.contestants() if ENTRIES[name].environment == "vamc"]
    peers = [name for name in report.contestants() if ENTRIES[name].environment != "vamc"]
    lines = [row(f"{phase}: peer", *ours), "|---|" + "---:|" * len(ours)]
    for peer in peers:
        found = [
            ratios(report.quiet, name, peer, phase) if ENTRIES[name].group == ENTRIES[peer].group else []
            for name in ours
        ]
        lines.append(row(peer, *(f"{statistics.median(values):.2f}" if values else "" for values in found)))
    return lines if ours and peers else []


def heading(report: Report) -> list[str]:
    """Paragraphs that say what was measured, how, and on which machine."""
    plan, shape = report.plan, SHAPES[report.plan.shape]
    model = (
        f"{shape.num_parameters / 1e9:.2f} B LLaMA ({plan.shape}: hidden {shape.hidden_size}, "
        f"{shape.num_hidden_layers} layers, {shape.num_attention_heads} heads, {shape.num_key_value_heads} KV heads, "
        f"intermediate {shape.intermediate_size}, vocabulary {shape.vocab_size}), random weights."
    )
    reload = f"every {plan.reload_every} rounds" if plan.reload_every else "never"
    how = (
        f"Prefill of {plan.prefill_tokens} tokens; decode of {plan.decode_steps} steps after {plan.prompt_tokens} "
        f"tokens; {plan.rounds} interleaved rounds; {len(plan.cores)} threads on cores {plan.cores}; "
        f"models loaded anew: {'every round' if plan.one_at_a_time else reload}."
    )
    conditions = ", ".join(f"{name} {value}" for name, value in report.conditions.items())
    disturbed = len(report.samples) - len(report.quiet)
    others = (
        f"{disturbed} of {len(report.samples)} measurements left out, because other processes used more than "
        f"{plan.foreign_cores} cores meanwhile"
    )
    load = report.conditions.get("load average before")
    broken = broken_rules(load=load, rounds=plan.rounds, cores=None)  # disturbed measurements are left out
    mark = [outside_the_rules(broken)] if broken else []
    return [f"{model} {how}", f"{conditions}; {others}.", *mark]


def notes(report: Report) -> list[str]:
    """What contestants say about themselves, and why some have no figures."""
    lines = []
    for name in report.contestants():
        said = ", ".join(f"{key}: {value}" for key, value in report.facts[name].items())
        lines.append(f"- {name}: {said}")
    return lines + [f"- {name}: no figures, {reason.splitlines()[0]}" for name, reason in report.skipped.items()]


def as_markdown(report: Report) -> str:
    """The whole report."""
    same = "Same token: how many prefills chose the token that most contestants chose."
    blocks = [
        *([paragraph] for paragraph in heading(report)),
        [f"Medians, with the range over rounds. {same}"],
        speed_table(report),
        ["Ratios are formed within each round, between measurements of the same minute."],
        target_table(report),
        *(ratio_table(report, phase) for phase in report.phases()),
        notes(report),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def as_json(report: Report) -> dict[str, Any]:
    """Everything, samples of every round included."""
    titles: Mapping[str, str] = {name: ENTRIES[name].title for name in report.contestants()}
    return {
        "conditions": report.conditions,
        "shape": {"name": report.plan.shape, **dataclasses.asdict(SHAPES[report.plan.shape])},
        "plan": {**dataclasses.asdict(report.plan), "work": str(report.plan.work)},
        "titles": titles,
        "targets": [target_result(report, target) for target in TARGETS],
        "facts": report.facts,
        "memory_bytes": report.memory_bytes,
        "skipped": report.skipped,
        "samples": [{**dataclasses.asdict(item), "disturbed": item not in report.quiet} for item in report.samples],
    }
