"""Verification catches mistakes that are made on purpose, and names the place: every row of the table in mutations.py."""

from __future__ import annotations

import pytest
from mutations import CASES, COMPILED, MUTATIONS, Case, Found, Mutation
from workshop import Workshop, report

from vamc_compiler.verify.result import PairResult

_UNCOMPILED = frozenset(("reference", "modeling", "graphs"))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Clean builds, made once."""
    return Workshop(tmp_path_factory.mktemp("mutations"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_unmutated_model_passes(case: Case, workshop: Workshop):
    """Whatever is found below comes from the mutation."""
    if case in COMPILED:
        found = report(workshop.clean(case))
    else:
        found = report(workshop.traced(case, workshop.new_folder()), _UNCOMPILED)
    assert [str(pair.location) for pair in found.pairs if not pair.passed] == []
    assert len(found.pairs) >= 7


def named(pair: PairResult) -> Found:
    """What a failing pair says."""
    place = pair.location
    assert place is not None, "a pair that fails says where"
    return Found(
        stage=place.stage, check=pair.check, block=place.block, op=place.op, ranks=place.ranks, detail=place.detail
    )


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-"))
def test_mutation_is_caught_and_located(mutation: Mutation, workshop: Workshop):
    failed = [named(pair) for pair in workshop.verified(mutation).pairs if not pair.passed]
    assert failed, "the mutation is caught"
    for expected, found in zip(mutation.found, failed, strict=False):
        assert (found.stage, found.check) == (expected.stage, expected.check)
        assert (found.block, found.op, found.ranks) == (expected.block, expected.op, expected.ranks), found.detail
        assert expected.detail in found.detail
    assert len(failed) >= len(mutation.found)
