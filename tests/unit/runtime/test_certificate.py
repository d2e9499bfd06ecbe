"""`numerics.json` survives the disk; damage is refused and its place named; golden tokens are what they say."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_runstream as fake
import numpy as np
import pytest
from fake_certificate import add_certificate, make_certificate

from vamc_runtime.certificate import (
    SCHEMA_VERSION,
    Certificate,
    Figure,
    Golden,
    golden_of,
    log_probabilities_at,
    parse_certificate,
    read_certificate,
)
from vamc_runtime.errors import UserError
from vamc_runtime.records import build_record
from vamc_runtime.runstream import open_runstream

GOLDEN = Golden(
    token_ids=(3, 1),
    top_ids=((4, 2), (0, 1)),
    log_probabilities=((-0.25, -1.5), (-0.125, -2.0)),
    tolerance=0.01,
    source="compiled",
)
SAMPLE = make_certificate(golden=GOLDEN)
CONTENT: dict[str, Any] = json.loads(SAMPLE.to_json())


def read(folder: Path, content: Any) -> Certificate | None:
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    (folder / "numerics.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return parse_certificate((folder / "numerics.json").read_bytes(), folder / "numerics.json")


def changed(*place: str | int, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    holder: Any = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return content


class TestFile:
    @pytest.mark.parametrize(
        "certificate",
        [SAMPLE, make_certificate(), make_certificate(status="off", reason="verify.when is off", figures=())],
    )
    def test_round_trip(self, tmp_path: Path, certificate: Certificate) -> None:
        assert read(tmp_path, certificate.to_json()) == certificate

    def test_absent(self, tmp_path: Path) -> None:
        fake.build(tmp_path)
        assert read_certificate(open_runstream(tmp_path)) is None

    def test_whole_numbers_are_figures_too(self, tmp_path: Path) -> None:
        found = read(tmp_path, changed("figures", 0, "value", value=0))
        assert found is not None
        assert found.figures[0].value == 0 and isinstance(found.figures[0].value, float)

    @pytest.mark.parametrize("text", ["", "{", b"\xff\xfe", json.dumps(CONTENT)[:-30]])
    def test_unreadable(self, tmp_path: Path, text: str | bytes) -> None:
        with pytest.raises(UserError, match=r"numerics\.json cannot be read") as caught:
            read(tmp_path, text)
        assert "compile" in caught.value.fix

    def test_one_that_the_manifest_does_not_list(self, tmp_path: Path) -> None:
        fake.build(tmp_path)
        (tmp_path / "numerics.json").write_text(SAMPLE.to_json(), encoding="utf-8")
        assert read_certificate(open_runstream(tmp_path)) is None

    def test_changed_after_opening(self, tmp_path: Path) -> None:
        add_certificate(tmp_path, fake.build(tmp_path), SAMPLE)
        opened, later = open_runstream(tmp_path), open_runstream(tmp_path)
        assert read_certificate(opened) == SAMPLE
        (tmp_path / "numerics.json").write_text("{}")
        assert read_certificate(opened) == SAMPLE, "read once"
        with pytest.raises(UserError, match=r"numerics\.json is damaged"):
            read_certificate(later)

    def test_newer(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=f"schema version {SCHEMA_VERSION + 1}") as caught:
            read(tmp_path, {"schema_version": SCHEMA_VERSION + 1})
        assert caught.value.fix == "update vamc on this machine"

    @pytest.mark.parametrize("content", [{}, [], None, 7, {"schema_version": 0}, {"schema_version": "1"}])
    def test_no_version_or_an_older_one(self, tmp_path: Path, content: Any) -> None:
        with pytest.raises(UserError, match="schema version") as caught:
            read(tmp_path, content)
        assert "compile the runstream again" in caught.value.fix

    @pytest.mark.parametrize("key", sorted(CONTENT.keys() - {"schema_version"}))
    def test_missing_key(self, tmp_path: Path, key: str) -> None:
        content = {name: value for name, value in CONTENT.items() if name != key}
        with pytest.raises(UserError) as caught:
            read(tmp_path, content)
        assert caught.value.found == f"{tmp_path / 'numerics.json'} lacks {key}"

    @pytest.mark.parametrize(
        ("place", "value", "shown"),
        [
            (("status",), "perhaps", ".status is 'perhaps'"),
            (("status",), None, ".status is None"),
            (("status",), ["passed"], ".status is ['passed']"),
            (("num_tokens",), 1.5, ".num_tokens is 1.5"),
            (("figures", 1, "value"), "small", ".figures[1].value is 'small'"),
            (("figures", 1, "value"), True, ".figures[1].value is True"),
            (("figures", 1, "at_least"), 1, ".figures[1].at_least is 1"),
            (("golden", "token_ids", 1), 1.0, ".golden.token_ids[1] is 1.0"),
            (("golden", "top_ids", 0), 4, ".golden.top_ids[0] is 4"),
            (("golden", "log_probabilities", 0, 1), None, ".golden.log_probabilities[0][1] is None"),
            (("golden",), [], ".golden is []"),
        ],
    )
    def test_wrong_type(self, tmp_path: Path, place: tuple[str | int, ...], value: Any, shown: str) -> None:
        with pytest.raises(UserError) as caught:
            read(tmp_path, changed(*place, value=value))
        assert caught.value.found == f"{tmp_path / 'numerics.json'}{shown}"
        assert "compile the runstream again" in caught.value.fix

    def test_choices_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError) as caught:
            read(tmp_path, changed("status", value="perhaps"))
        assert caught.value.expected == "one of passed, off, skipped"

    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [
            (("golden", "top_ids", 1), [], "golden has"),
            (("golden", "top_ids"), [[4, 2]], "golden has likeliest tokens for 1 positions, and 2 tokens"),
            (("golden", "log_probabilities", 1), [-1.0], "one log-probability for each"),
            (("golden", "log_probabilities"), [[-1.0, -2.0]], "one log-probability for each"),
        ],
    )
    def test_values_that_cannot_be(
        self, tmp_path: Path, place: tuple[str | int, ...], value: Any, message: str
    ) -> None:
        with pytest.raises(UserError) as caught:
            read(tmp_path, changed(*place, value=value))
        assert caught.value.found.startswith(str(tmp_path / "numerics.json")) and message in caught.value.found

    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [
            (("figures", 0, "value"), math.nan, "mean KL of original -> patched is nan"),
            (("figures", 0, "limit"), math.inf, "the limit of mean KL of original -> patched is inf"),
            (("golden", "tolerance"), math.nan, "golden.tolerance is nan"),
            (("golden", "log_probabilities", 1, 1), -math.inf, "a golden log-probability is -inf"),
        ],
    )
    def test_not_finite(self, tmp_path: Path, place: tuple[str | int, ...], value: float, message: str) -> None:
        content = changed(*place, value=value)
        with pytest.raises(UserError, match=r"cannot be read: it has (NaN|-?Infinity), which is not JSON"):
            read(tmp_path, content)
        with pytest.raises(ValueError, match=re.escape(message)):
            build_record(Certificate, content, "numerics.json")


class TestFigure:
    def test_not_finite_at_construction(self) -> None:
        with pytest.raises(ValueError, match="mean KL of a -> b is nan"):
            Figure(pair="a -> b", name="mean KL", value=math.nan, limit=1.0, at_least=False)

    @pytest.mark.parametrize(
        ("value", "limit", "at_least", "used"),
        [
            (0.5, 2.0, False, 0.25),
            (2.0, 2.0, False, 1.0),
            (0.0, 0.0, False, 0.0),
            (0.1, 0.0, False, math.inf),
            (1.0, 0.98, True, 0.98),
            (0.0, 0.98, True, math.inf),
            (0.0, 0.0, True, 0.0),
        ],
    )
    def test_used(self, value: float, limit: float, at_least: bool, used: float) -> None:
        assert Figure(pair="p", name="n", value=value, limit=limit, at_least=at_least).used == used


class TestGolden:
    def test_log_probabilities_are_those_of_a_softmax(self) -> None:
        logits = np.log(np.array([0.1, 0.2, 0.7], np.float32)) + 100
        assert log_probabilities_at(logits, (2, 0)) == pytest.approx(np.log([0.7, 0.1]), abs=1e-5)

    def test_large_logits_do_not_overflow(self) -> None:
        assert log_probabilities_at(np.array([3e4, 3e4], np.float32), (1,)) == pytest.approx([-math.log(2)])

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_not_finite(self, bad: float) -> None:
        assert np.isnan(log_probabilities_at(np.array([1, bad, 2], np.float32), (0,))).all()
        with pytest.raises(ValueError, match="a golden log-probability is nan"):
            golden_of((1,), np.array([[1, bad, 2]], np.float32), 0.1, "compiled")

    def test_likeliest_first(self) -> None:
        logits = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
        golden = golden_of((7, 8, 9), logits, 0.5, "compiled", top=4)
        assert golden.token_ids == (7, 8, 9) and golden.tolerance == 0.5 and golden.source == "compiled"
        assert golden.top_ids == tuple(map(tuple, np.argsort(-logits)[:, :4].tolist()))
        for row, ids, values in zip(logits, golden.top_ids, golden.log_probabilities, strict=True):
            assert values == pytest.approx(log_probabilities_at(row, ids), abs=1e-8)

    def test_small_vocabulary(self) -> None:
        golden = golden_of((0,), np.array([[1.0, 3.0, 2.0]], np.float32), 0.1, "compiled")
        assert golden.top_ids == ((1, 2, 0),)
        assert sum(map(math.exp, golden.log_probabilities[0])) == pytest.approx(1)

    def test_as_many_rows_as_tokens(self) -> None:
        with pytest.raises(ValueError, match="positions"):
            golden_of((1, 2), np.zeros((1, 3), np.float32), 0.1, "compiled")

    def test_no_tokens(self) -> None:
        with pytest.raises(ValueError, match="positions"):
            replace(GOLDEN, token_ids=(), top_ids=(), log_probabilities=())
