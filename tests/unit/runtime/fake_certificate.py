"""Certificates for tests, and golden tokens of the fake model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_runstream as fake
import numpy as np
from fake_executor import model_logits

from vamc_runtime.certificate import FILE_NAME, SCHEMA_VERSION, Certificate, Figure, Golden, golden_of
from vamc_runtime.manifest import Manifest

CPU = "Verified CPU 9000"


def fake_golden(token_ids: Sequence[int], vocab_size: int, *, error: float = 0.0, top: int = 8) -> Golden:
    """What `FakeExecutor` computes for a sequence; log-probabilities off by `error` at every second token."""
    ids = np.array(token_ids, np.int32)
    logits = np.stack([model_logits(ids[: end + 1], vocab_size) for end in range(ids.size)])
    golden = golden_of(tuple(token_ids), logits, 1e-6, "the fake model", top)
    rows = tuple(
        tuple(value + error * (i % 2) for i, value in enumerate(row, position))
        for position, row in enumerate(golden.log_probabilities)
    )
    return replace(golden, log_probabilities=rows)


def make_certificate(**changes: Any) -> Certificate:
    """A certificate that passed on another CPU; fields may be given."""
    certificate = Certificate(
        schema_version=SCHEMA_VERSION,
        status="passed",
        reason="",
        reference="transformers LlamaForCausalLM",
        tokens="the built-in sample",
        num_tokens=256,
        token_digest="c3" * 32,
        figures=(
            Figure(pair="original -> patched", name="mean KL", value=4.8e-9, limit=1e-5, at_least=False),
            Figure(pair="original -> compiled", name="mean KL", value=4.8e-7, limit=1e-5, at_least=False),
            Figure(pair="original -> compiled", name="same top token", value=1.0, limit=0.98, at_least=True),
        ),
        excludes=("a wrong number", "another model"),
        leaves_open=("something small",),
        checkpoint_digest=fake.DIGEST,
        toolchain={"torch": "2.13.0"},
        cpu=CPU,
        library="any",
        date="2026-11-21T10:11:12+00:00",
        golden=None,
    )
    return replace(certificate, **changes)


def add_certificate(path: Path, manifest: Manifest, certificate: Certificate) -> None:
    """Put it into a runstream."""
    (path / FILE_NAME).write_text(certificate.to_json(), encoding="utf-8")
    fake.write_manifest(path, manifest)
