"""The scheduler computes every token once and in order, keeps pages apart, and starves nobody."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vamc_runtime.errors import UserError
from vamc_runtime.kv_pages import PageAllocator
from vamc_runtime.sampling import SamplingParams
from vamc_runtime.scheduler import Scheduler, StepPlan
from vamc_runtime.sequence import Sequence

EOS = 0


def make_scheduler(*, pages: int = 64, page: int = 4, step: int = 8, context: int = 64) -> Scheduler:
    return Scheduler(PageAllocator(pages), page_tokens=page, max_step_tokens=step, max_context_tokens=context)


def request(num_prompt: int, num_output: int, first_id: int = 100) -> Sequence:
    return Sequence(
        prompt_ids=list(range(first_id, first_id + num_prompt)),
        params=SamplingParams(max_new_tokens=num_output),
        eos_ids=frozenset({EOS}),
    )


class Machine:
    """Plays the compiled step: a cache that remembers which token of which sequence sits in each slot."""

    def __init__(self, scheduler: Scheduler, page: int, step: int, context: int) -> None:
        self.scheduler, self.page, self.step, self.context = scheduler, page, step, context
        self.computed: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.cache: dict[int, tuple[int, int]] = {}

    def check(self, plan: StepPlan, live: list[Sequence]) -> None:
        num_rows = len(plan.sequences)
        arrays = (plan.input_ids, plan.position_ids, plan.seq_ids, plan.page_table, plan.logits_index)
        assert all(array.dtype == np.int32 for array in arrays)
        assert 1 <= plan.input_ids.size <= self.step
        assert plan.input_ids.shape == plan.position_ids.shape == plan.seq_ids.shape
        assert sum(plan.num_new_tokens) == plan.input_ids.size
        assert plan.num_prefill_tokens + plan.num_decode_tokens == plan.input_ids.size
        assert plan.page_table.shape[0] == num_rows and plan.logits_index.size == max(1, len(plan.wants_sample))
        held = [page for sequence in live for page in sequence.pages]
        assert len(held) == len(set(held)), "two live sequences share a page"
        used = [
            -(-(sequence.num_computed + count) // self.page)
            for sequence, count in zip(plan.sequences, plan.num_new_tokens, strict=True)
        ]
        assert plan.page_table.shape[1] == max(used)
        for row in range(num_rows):
            assert plan.page_table[row, : used[row]].tolist() == plan.sequences[row].pages[: used[row]]
            assert not plan.page_table[row, used[row] :].any()

    def run(self, plan: StepPlan) -> None:
        for token, position, row in zip(plan.input_ids, plan.position_ids, plan.seq_ids, strict=True):
            sequence = plan.sequences[row]
            self.computed[id(sequence)].append((int(position), int(token)))
            slot = plan.page_table[row, position // self.page] * self.page + position % self.page
            self.cache[int(slot)] = (id(sequence), int(position))
        for row, sequence in enumerate(plan.sequences):
            last = sequence.num_computed + plan.num_new_tokens[row]
            for position in range(last):
                slot = plan.page_table[row, position // self.page] * self.page + position % self.page
                assert self.cache[int(slot)] == (id(sequence), position), "the page table points elsewhere"
        for sequence, index in zip(plan.wants_sample, plan.logits_index[: len(plan.wants_sample)], strict=True):
            assert plan.sequences[plan.seq_ids[index]] is sequence
            assert plan.position_ids[index] == sequence.num_tokens - 1


@settings(deadline=None)  # the machine may be busy
@given(data=st.data())
def test_random_requests(data: st.DataObject) -> None:
    page, step = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
    context = data.draw(st.integers(2, 40))
    num_pages = data.draw(st.integers(-(-context // page), 3 * -(-context // page)))
    allocator = PageAllocator(num_pages)
    scheduler = Scheduler(allocator, page_tokens=page, max_step_tokens=step, max_context_tokens=context)
    machine = Machine(scheduler, page, step, context)
    to_come = [
        request(data.draw(st.integers(1, context - 1)), data.draw(st.integers(1, 12)), 1000 * (index + 1))
        for index in range(data.draw(st.integers(1, 8)))
    ]
    arrived: list[Sequence] = []
    for _ in range(2000):
        while to_come and data.draw(st.integers(0, 2)) == 0:
            arrived.append(to_come.pop(0))
            scheduler.add(arrived[-1])
        live = [sequence for sequence in arrived if sequence.finish_reason is None]
        plan = scheduler.plan()
        if plan is None:
            assert not live, "there is work, but no step"
            if not to_come:
                break
            continue
        machine.check(plan, live)
        # First come first served: requests start in order, and the oldest makes progress in every step.
        assert [bool(sequence.pages) for sequence in live] == sorted(
            (bool(sequence.pages) for sequence in live), reverse=True
        )
        assert live[0] in plan.sequences
        decoding = [sequence for sequence in live if sequence.pages and not sequence.is_prefilling]
        assert all(sequence in plan.sequences for sequence in decoding)
        machine.run(plan)
        tokens = [data.draw(st.integers(0, 6)) for _ in plan.wants_sample]
        finished = scheduler.complete(plan, tokens)
        assert all(sequence.finish_reason is not None and not sequence.pages for sequence in finished)
    assert scheduler.num_running == scheduler.num_waiting == 0 and allocator.num_free == num_pages
    for sequence in arrived:
        # The last token generated is never computed.
        expected = [*sequence.prompt_ids, *sequence.output_ids][:-1]
        assert machine.computed[id(sequence)] == list(enumerate(expected))
        assert sequence.num_tokens <= context
        assert 1 <= len(sequence.output_ids) <= sequence.params.max_new_tokens
        stopped = sequence.output_ids[-1] == EOS
        assert sequence.finish_reason == ("stop" if stopped else "length")


def test_decode_comes_before_prefill_chunks() -> None:
    scheduler = make_scheduler(step=8)
    first, long, third = request(3, 9), request(12, 2, 200), request(2, 2, 300)
    scheduler.add(first)
    plan = scheduler.plan()
    assert plan is not None
    scheduler.complete(plan, [7])
    scheduler.add(long)
    scheduler.add(third)
    plan = scheduler.plan()
    assert plan is not None
    assert plan.sequences == (first, long) and plan.num_new_tokens == (1, 7)
    assert plan.input_ids.tolist() == [7, *range(200, 207)]
    assert plan.position_ids.tolist() == [3, *range(7)]
    assert plan.seq_ids.tolist() == [0] + [1] * 7
    assert plan.page_table.shape == (2, 2)
    assert plan.wants_sample == (first,) and plan.logits_index.tolist() == [0]
    assert (plan.num_prefill_tokens, plan.num_decode_tokens) == (7, 1)
    scheduler.complete(plan, [8])
    plan = scheduler.plan()
    assert plan is not None
    assert plan.sequences == (first, long, third) and plan.num_new_tokens == (1, 5, 2)
    assert plan.wants_sample == (first, long, third) and plan.logits_index.tolist() == [0, 5, 7]
    assert plan.page_table[1].tolist() == long.pages[:3]


def test_a_step_without_samples_still_asks_for_one_row() -> None:
    scheduler = make_scheduler(step=4)
    scheduler.add(request(6, 1))
    plan = scheduler.plan()
    assert plan is not None and plan.wants_sample == () and plan.logits_index.tolist() == [3]
    assert scheduler.complete(plan, []) == []


def test_the_head_of_the_queue_is_not_overtaken() -> None:
    scheduler = make_scheduler(pages=4, page=4)
    for sequence in (request(8, 4), request(8, 8), request(1, 1)):
        scheduler.add(sequence)
    assert scheduler.plan() is not None
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 2)


def test_a_request_larger_than_the_pool() -> None:
    with pytest.raises(UserError, match="needs 5 KV pages for 17 tokens"):
        make_scheduler(pages=4, page=4).add(request(8, 9))


def test_output_is_clipped_to_the_context() -> None:
    scheduler = make_scheduler(context=10, step=16)
    sequence = request(8, 100)
    scheduler.add(sequence)
    for _ in range(2):
        plan = scheduler.plan()
        assert plan is not None
        scheduler.complete(plan, [5])
    assert sequence.finish_reason == "length" and sequence.num_tokens == 10
    assert scheduler.plan() is None


def test_finish_early_frees_the_pages() -> None:
    allocator = PageAllocator(8)
    scheduler = Scheduler(allocator, page_tokens=4, max_step_tokens=8, max_context_tokens=32)
    running, during, waiting = request(4, 4), request(4, 4), request(20, 12)
    for sequence in (running, during, waiting):
        scheduler.add(sequence)
    plan = scheduler.plan()
    assert plan is not None
    scheduler.finish(during)  # the client left while the step runs: its token is dropped
    assert scheduler.complete(plan, [5, 5]) == []
    assert running.output_ids == [5] and during.output_ids == []
    for sequence in (running, waiting, waiting):
        scheduler.finish(sequence, "length")
    assert allocator.num_free == 8 and scheduler.plan() is None
    assert (running.finish_reason, during.finish_reason) == ("length", "stop")


def test_misuse() -> None:
    scheduler = make_scheduler()
    with pytest.raises(AssertionError, match="check_prompt"):
        scheduler.add(request(64, 4))
    scheduler.add(request(3, 3))
    plan = scheduler.plan()
    assert plan is not None
    with pytest.raises(AssertionError, match="before the last plan"):
        scheduler.plan()
    with pytest.raises(AssertionError, match="0 tokens for 1 sequences"):
        scheduler.complete(plan, [])
    scheduler.complete(plan, [5])
    with pytest.raises(AssertionError, match="another plan"):
        scheduler.complete(plan, [5])
