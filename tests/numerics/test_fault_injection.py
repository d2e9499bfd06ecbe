"""Verification catches mistakes made on purpose, and names the place: every row of the table in mutations.py."""

from __future__ import annotations

import pytest
from mutation import CASES, COMPILED, Case, Found, Mutation
from mutation_table import names
from mutations import MUTATIONS
from workshop import PARTS, Workshop, report

from vamc_compiler.verify.reproduce import reproduce
from vamc_compiler.verify.result import PairResult
from vamc_compiler.verify.verification import EVERYTHING


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Clean builds, made once."""
    return Workshop(tmp_path_factory.mktemp("mutations"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_unmutated_model_passes(case: Case, workshop: Workshop) -> None:
    """Whatever is found below comes from the mutation."""
    found = report(workshop.clean(case), EVERYTHING if case in COMPILED.values() else PARTS["modeling"])
    assert [str(pair.location) for pair in found.pairs if not pair.passed] == []
    assert len(found.pairs) >= 4


def test_the_document_shows_every_mutation() -> None:
    assert names() == [mutation.name for mutation in MUTATIONS], "make numerics-update writes the table"


def named(pair: PairResult, case: Case) -> Found:
    """What a failing pair says."""
    place = pair.location
    assert place is not None, "a pair that fails says where"
    ranks = () if place.ranks == tuple(range(case.num_ranks)) else place.ranks
    return Found(stage=place.stage, check=pair.check, block=place.block, op=place.op, ranks=ranks, detail=place.detail)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-"))
def test_mutation_is_caught_and_located(mutation: Mutation, workshop: Workshop) -> None:
    found = [named(pair, mutation.case) for pair in workshop.verified(mutation).pairs if not pair.passed]
    assert len(found) >= len(mutation.found) > 0, "the mutation is caught"
    for expected, pair in zip(mutation.found, found, strict=False):
        assert (pair.stage, pair.check) == (expected.stage, expected.check)
        assert (pair.block, pair.op, pair.ranks) == (expected.block, expected.op, expected.ranks), pair.detail
        assert expected.detail in pair.detail


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("scales off by one channel", "QuantizedLinearPerChannel"),
        ("AllReduce missing, compiled", "AddRMSNorm"),
        ("largest magnitude of half a row", "QuantizedLinearPerChannelByTop"),
    ],
)
def test_what_ranks_compute_is_cut_out(
    name: str, nodes: str, workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compiled again without the mistake, the subgraph is right: it is not in the graph."""
    (mutation,) = (mutation for mutation in MUTATIONS if mutation.name == name)
    case = workshop.bisected(mutation)
    expected = mutation.found[-1]
    assert (case.location.block, case.location.op) == (expected.block, expected.op)
    assert nodes in case.nodes and len(case.nodes) <= 6
    assert case.error > case.limit
    assert reproduce(case.folder / "reproduce.py") == 0
    recorded, graph, again = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[-3:])
    assert recorded > case.limit > max(graph, again)
