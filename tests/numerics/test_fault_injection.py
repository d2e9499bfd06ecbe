"""Verification catches mistakes made on purpose, and names the place: every row of the table in mutations.py."""

from __future__ import annotations

import pytest
from mutation import ALIBI, CASES, COMPILED, Case, Found, Mutation
from mutation_table import names, unseen_names
from mutations import MUTATIONS
from workshop import PARTS, WHOLE_BUILD, Workshop, report, short_pairs

from vamc_compiler.verify.faults import EXCLUDED, LEFT_OPEN, excluded
from vamc_compiler.verify.reproduce import reproduce
from vamc_compiler.verify.result import PairResult
from vamc_compiler.verify.verification import EVERYTHING, SHORT


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


BUILT_ANEW = ("simplification changes a norm's epsilon", "epsilon of another family's norms", "RoPE with another base")
"""Of the mutations that have to be in the whole of a build those that are built here; the table is made of all."""
BUILT = [mutation for mutation in MUTATIONS if mutation.during not in WHOLE_BUILD or mutation.name in BUILT_ANEW]


@pytest.mark.parametrize("mutation", BUILT, ids=lambda mutation: mutation.name.replace(" ", "-"))
def test_a_build_with_the_mutation_gets_no_certificate(mutation: Mutation, workshop: Workshop) -> None:
    """Where it does, the document says why it is not seen."""
    failed = [pair for pair in workshop.certified(mutation) if not pair.passed]
    assert bool(failed) is (mutation.unseen is None), [str(pair.location) for pair in failed]


def test_the_document_says_what_a_build_does_not_see() -> None:
    unseen = {mutation.name: mutation.unseen for mutation in MUTATIONS if mutation.unseen}
    assert unseen_names() == unseen, "make numerics-update writes the table"
    assert set(unseen.values()) == LEFT_OPEN.keys(), "every reason has an example"


def test_what_a_certificate_excludes_is_what_its_comparisons_caught(workshop: Workshop) -> None:
    """Every kind of fault that a certificate excludes was made, and caught by the comparison that excludes it."""
    clean = report(workshop.clean(ALIBI), EVERYTHING)
    assert excluded(clean) == tuple(EXCLUDED.values())
    assert [pair.check for pair in report(workshop.clean(ALIBI), SHORT).pairs] == [
        pair.check for pair in short_pairs(clean)
    ], "the builds of this test see no more than vamc compile does"
    names = ("written to the next slot in steps of one token", "one rank given another's shard")
    made = [mutation for mutation in MUTATIONS if mutation.name in names]
    caught = {pair.check for mutation in made for pair in workshop.certified(mutation) if not pair.passed}
    assert caught == EXCLUDED.keys()


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
