"""`LLM` gives every prompt what it would get alone, whatever the batch, the chunks and the cache; and leaks nothing.

The compiled step is replaced by `fake_executor.FakeExecutor`, whose logits depend on every token of a sequence as the
cache has them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import fake_runstream as fake
import numpy as np
import pytest
import tiny_tokenizers as tiny
from fake_executor import FakeExecutor, model_logits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vamc_runtime import LLM, SamplingParams, UserError, engine
from vamc_runtime.engine import Piece
from vamc_runtime.manifest import Limits
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.runstream import Runstream

VOCAB = 400
CONTEXT = 64
PAGE = 4
PROMPTS = [
    [7],
    [1, 2, 3, 4, 5],
    [1, 2, 3, 4, 6],
    list(range(10, 40)),
    [0, VOCAB - 1, 0],
    list(range(100, 116)),
    [5] * 9,
]
GREEDY = SamplingParams(max_new_tokens=12)

Open = Callable[..., LLM]


def executor_of(llm: LLM) -> FakeExecutor:
    executor = llm._executor
    assert isinstance(executor, FakeExecutor)
    return executor


@pytest.fixture(autouse=True)
def fake_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def open_executor(runstream: Runstream, options: RankOptions, on_load: object) -> Iterator[FakeExecutor]:
        yield FakeExecutor(runstream.manifest, options.num_pages)

    monkeypatch.setattr(engine, "open_executor", open_executor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A runstream without a tokenizer."""
    fake.build(tmp_path / "plain")
    return tmp_path / "plain"


def with_tokenizer(path: Path, **files: Any) -> Path:
    """A runstream whose tokenizer is byte-level, with JSON files beside it given by stem."""
    tiny.write_json(path / "tokenizer", tiny.byte_level_json(), **files)
    fake.build(path)
    return path


@pytest.fixture(scope="module")
def texts(folder: Path) -> Path:
    """A runstream with a tokenizer; its EOS is out of the model's reach."""
    return with_tokenizer(folder / "texts", tokenizer_config={"eos_token": "<tool call>"})


def alone(prompt: Sequence[int], num_tokens: int) -> list[int]:
    """What greedy decoding of one sequence gives, computed without the engine."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(np.argmax(model_logits(np.array(tokens, np.int32), VOCAB))))
    return tokens[len(prompt) :]


def all_free(llm: LLM) -> bool:
    return llm._allocator.num_free == llm._allocator.num_pages


class TestBatches:
    def test_a_batch_equals_each_prompt_alone(self, plain: Path) -> None:
        with LLM(plain) as llm:
            completions = llm.generate(PROMPTS, GREEDY)
            assert executor_of(llm).num_steps < 12 * len(PROMPTS), "they ran together"
            assert all_free(llm)
        for prompt, completion in zip(PROMPTS, completions, strict=True):
            assert list(completion.token_ids) == alone(prompt, 12)
            assert completion.num_prompt_tokens == len(prompt)
            assert completion.finish_reason == "length"
            assert completion.text == "", "no tokenizer, no text"

    @pytest.mark.parametrize("max_prefill_tokens", [1, 2, 3, 8, 64])
    def test_chunked_prefill_equals_whole(self, tmp_path: Path, max_prefill_tokens: int) -> None:
        limits = Limits(max_prefill_tokens=max_prefill_tokens, max_context_tokens=CONTEXT)
        fake.build(tmp_path, limits=limits)
        with LLM(tmp_path) as llm:
            completions = llm.generate(PROMPTS, GREEDY)
            assert max(executor_of(llm).num_tokens) == max_prefill_tokens, "steps were filled"
        assert [list(c.token_ids) for c in completions] == [alone(p, 12) for p in PROMPTS]

    def test_more_prompts_than_the_cache_holds(self, plain: Path) -> None:
        prompts = [[i, *range(i % 7)] for i in range(40)]
        with LLM(plain, kv_cache_tokens=3 * 20) as llm:
            completions = llm.generate(prompts, GREEDY)
            assert all_free(llm)
        assert [list(c.token_ids) for c in completions] == [alone(p, 12) for p in prompts]

    def test_the_same_prompt_twice(self, plain: Path) -> None:
        with LLM(plain) as llm:
            first, second = llm.generate([[3, 1], [3, 1]], GREEDY)
        assert first == second and list(first.token_ids) == alone([3, 1], 12)

    def test_one_after_the_other_in_the_same_pages(self, plain: Path) -> None:
        with LLM(plain, kv_cache_tokens=CONTEXT) as llm:
            for prompt in PROMPTS * 2:
                assert list(llm.generate([prompt], GREEDY)[0].token_ids) == alone(prompt, 12)

    def test_no_prompts(self, plain: Path) -> None:
        with LLM(plain) as llm:
            assert llm.generate([]) == []
            assert executor_of(llm).num_steps == 0

    def test_the_context_limits_the_output(self, plain: Path) -> None:
        prompt = list(range(CONTEXT - 3))
        with LLM(plain) as llm:
            completion = llm.generate([prompt], SamplingParams(max_new_tokens=1000))[0]
        assert list(completion.token_ids) == alone(prompt, 3)
        assert completion.finish_reason == "length"

    def test_a_seed_gives_the_same_tokens_in_any_batch(self, plain: Path) -> None:
        params = SamplingParams(max_new_tokens=10, temperature=1.0, seed=5)
        with LLM(plain) as llm:
            batch = [c.token_ids for c in llm.generate(PROMPTS, params)]
            single = [llm.generate([prompt], params)[0].token_ids for prompt in PROMPTS]
            other = llm.generate(PROMPTS[:1], SamplingParams(max_new_tokens=10, temperature=1.0, seed=6))
        assert batch == single
        assert other[0].token_ids != batch[0]
        assert list(batch[0]) != alone(PROMPTS[0], 10), "it was sampled, not greedy"

    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        prompts=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=50), min_size=1, max_size=8),
        max_prefill=st.integers(1, 64),
        page=st.sampled_from([1, 4, 16]),
        cache_contexts=st.integers(1, 5),
        max_new=st.integers(1, 20),
    )
    def test_any_batch(
        self,
        tmp_path: Path,
        prompts: list[list[int]],
        max_prefill: int,
        page: int,
        cache_contexts: int,
        max_new: int,
    ) -> None:
        layout = fake.make_manifest().kv_cache
        fake.build(
            tmp_path,
            limits=Limits(max_prefill_tokens=max_prefill, max_context_tokens=CONTEXT),
            kv_cache=type(layout)(**{**vars(layout), "page_tokens": page}),
        )
        with LLM(tmp_path, kv_cache_tokens=cache_contexts * CONTEXT) as llm:
            completions = llm.generate(prompts, SamplingParams(max_new_tokens=max_new))
            assert all_free(llm)
        for prompt, completion in zip(prompts, completions, strict=True):
            assert list(completion.token_ids) == alone(prompt, min(max_new, CONTEXT - len(prompt)))


class TestStream:
    def test_pieces_join_to_generate(self, texts: Path) -> None:
        prompts: list[engine.Prompt] = ["The quick brown", "Hello 世界", *PROMPTS]
        with LLM(texts) as llm:
            completions = llm.generate(prompts, GREEDY)
            pieces = list(llm.stream(prompts, GREEDY))
            decode = llm.tokenizer.decode
        assert any(completion.text for completion in completions)
        for index, completion in enumerate(completions):
            mine = [piece for piece in pieces if piece.index == index]
            assert "".join(piece.text for piece in mine) == completion.text == decode(completion.token_ids)
            assert tuple(token for piece in mine for token in piece.token_ids) == completion.token_ids
            assert [piece.finish_reason for piece in mine] == [None] * 11 + ["length"]

    def test_a_piece_comes_before_the_next_step(self, plain: Path) -> None:
        with LLM(plain) as llm:
            stream = llm.stream([[1, 2]], GREEDY)
            assert executor_of(llm).num_steps == 0
            for step in range(1, 4):
                assert next(stream).token_ids == (alone([1, 2], step)[-1],)
                assert executor_of(llm).num_steps == step

    @pytest.mark.parametrize("num_pieces", [0, 1, 5, 30])
    def test_closing_early_frees_the_pages(self, plain: Path, num_pieces: int) -> None:
        with LLM(plain, kv_cache_tokens=100) as llm:  # some of the prompts have to wait
            stream = llm.stream(PROMPTS, GREEDY)
            for _ in range(num_pieces):
                next(stream)
            assert not num_pieces or not all_free(llm)
            cast(Any, stream).close()  # it is a generator
            assert all_free(llm)
            assert list(llm.generate([[9, 9]], GREEDY)[0].token_ids) == alone([9, 9], 12)

    @pytest.mark.parametrize("step", [0, 1, 6])
    def test_a_failing_step_frees_the_pages(self, plain: Path, step: int) -> None:
        with LLM(plain, kv_cache_tokens=100) as llm:
            executor_of(llm).fail_at = step
            with pytest.raises(OSError, match="the step failed"):
                llm.generate(PROMPTS, GREEDY)
            assert all_free(llm)
            executor_of(llm).fail_at = None
            assert list(llm.generate([[9, 9]], GREEDY)[0].token_ids) == alone([9, 9], 12)

    def test_two_streams_at_once(self, plain: Path) -> None:
        with LLM(plain) as llm:
            first, second = llm.stream([PROMPTS[0]], GREEDY), llm.stream([PROMPTS[3]], GREEDY)
            pieces = list(zip(first, second, strict=True))
            assert all_free(llm)
        for side, prompt in enumerate((PROMPTS[0], PROMPTS[3])):
            assert [pair[side].token_ids[0] for pair in pieces] == alone(prompt, 12)

    def test_a_stream_that_finds_the_cache_taken_says_so(self, plain: Path) -> None:
        with LLM(plain, kv_cache_tokens=20) as llm:
            first = llm.stream([[1, 2, 3, 4]], GREEDY)
            tokens = [next(first).token_ids[0]]
            with pytest.raises(UserError) as caught:  # an empty output would look like an answer
                llm.generate([[5, 6, 7]], GREEDY)
            assert "KV cache" in caught.value.found and "stream" in caught.value.found
            tokens += [piece.token_ids[0] for piece in first]
            assert tokens == alone([1, 2, 3, 4], 12), "the first one is not disturbed"
            assert all_free(llm)


class TestStopping:
    def finished(self, llm: LLM, params: SamplingParams, prompt: engine.Prompt = "Hello") -> list[Piece]:
        pieces = list(llm.stream([prompt], params))
        assert all(piece.finish_reason is None for piece in pieces[:-1])
        assert all_free(llm)
        return pieces

    def test_stop_text(self, texts: Path) -> None:
        with LLM(texts) as llm:
            whole = llm.generate(["Hello"], GREEDY)[0]
            assert len(whole.text) > 12
            per_token = [piece.text for piece in llm.stream(["Hello"], GREEDY)]
            # A stop text made of the end of one token and the beginning of the next.
            index = next(i for i in range(2, 11) if per_token[i] and per_token[i + 1])
            stop = per_token[index][-1] + per_token[index + 1][0]
            completion = llm.generate(["Hello"], SamplingParams(max_new_tokens=12, stop=("☃", stop)))[0]
            pieces = self.finished(llm, SamplingParams(max_new_tokens=12, stop=("☃", stop)))
        assert completion.text == whole.text[: whole.text.find(stop)]
        assert completion.finish_reason == "stop"
        assert len(completion.token_ids) < 12
        assert completion.token_ids == whole.token_ids[: len(completion.token_ids)]
        assert "".join(piece.text for piece in pieces) == completion.text
        assert pieces[-1].finish_reason == "stop"

    def test_stop_text_in_the_last_token(self, texts: Path) -> None:
        with LLM(texts) as llm:
            per_token = [piece.text for piece in llm.stream(["Hello"], GREEDY)]
            count = next(i for i in range(1, 12) if per_token[i] and per_token[i] not in "".join(per_token[:i])) + 1
            params = SamplingParams(max_new_tokens=count, stop=(per_token[count - 1],))
            completion = llm.generate(["Hello"], params)[0]
        assert completion.text == "".join(per_token[: count - 1])
        assert completion.finish_reason == "stop", "the stop text was there, whatever the length"

    def test_held_back_text_comes_with_the_last_piece(self, texts: Path) -> None:
        with LLM(texts) as llm:
            whole = llm.generate(["Hello"], GREEDY)[0].text
            params = SamplingParams(max_new_tokens=12, stop=(whole[-1] + "☃",))
            pieces = self.finished(llm, params)
        assert "".join(piece.text for piece in pieces) == whole
        assert pieces[-1].finish_reason == "length"

    def test_one_prompt_stops_and_the_others_go_on(self, texts: Path) -> None:
        prompts = ["Hello", "The quick brown", "你好"]
        with LLM(texts) as llm:
            whole = llm.generate(prompts, GREEDY)
            stop = next(
                character
                for character in whole[0].text
                if character not in whole[1].text + whole[2].text and character != whole[0].text[-1]
            )
            cut = llm.generate(prompts, SamplingParams(max_new_tokens=12, stop=(stop,)))
            assert all_free(llm)
        assert cut[0].text == whole[0].text[: whole[0].text.find(stop)]
        assert cut[0].finish_reason == "stop"
        assert cut[1:] == whole[1:]

    def test_eos(self, tmp_path: Path) -> None:
        tokens = alone(PROMPTS[1], 12)
        eos = tokens[5]
        assert eos not in tokens[:5]
        with_tokenizer(tmp_path, generation_config={"eos_token_id": [399, eos]})
        with LLM(tmp_path) as llm:
            completion = llm.generate([PROMPTS[1]], GREEDY)[0]
            assert all_free(llm)
            ignoring = llm.generate([PROMPTS[1]], SamplingParams(max_new_tokens=12, ignore_eos=True))[0]
        assert list(completion.token_ids) == tokens[:6] and completion.finish_reason == "stop"
        assert list(ignoring.token_ids) == tokens and ignoring.finish_reason == "length"

    @pytest.mark.parametrize("max_new_tokens", [1, 2, 7])
    def test_length(self, plain: Path, max_new_tokens: int) -> None:
        with LLM(plain) as llm:
            pieces = self.finished(llm, SamplingParams(max_new_tokens=max_new_tokens), [1, 2])
        assert [piece.finish_reason for piece in pieces] == [None] * (max_new_tokens - 1) + ["length"]


class TestPrompts:
    BAD = (
        pytest.param([], "the prompt is empty", id="empty"),
        pytest.param(list(range(CONTEXT)), f"the prompt has {CONTEXT} tokens", id="no room for the output"),
        pytest.param([1] * 1000, "the prompt has 1000 tokens", id="too long"),
        pytest.param([1, -1], "token id -1", id="negative"),
        pytest.param([1, VOCAB], f"token id {VOCAB}", id="beyond the vocabulary"),
        pytest.param([2**31 + 5], f"token id {2**31 + 5}", id="beyond 32 bits"),
    )

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(("prompt", "found"), BAD)
    def test_refused_before_any_step(self, plain: Path, prompt: list[int], found: str, stream: bool) -> None:
        with LLM(plain) as llm:
            with pytest.raises(UserError, match=found) as caught:
                _ = next(llm.stream([[1], prompt])) if stream else llm.generate([[1], prompt])
            assert caught.value.expected or caught.value.fix
            assert executor_of(llm).num_steps == 0 and all_free(llm)

    def test_the_longest_prompt(self, plain: Path) -> None:
        prompt = list(range(CONTEXT - 1))
        with LLM(plain) as llm:
            assert list(llm.generate([prompt], GREEDY)[0].token_ids) == alone(prompt, 1)

    def test_text_without_a_tokenizer(self, plain: Path) -> None:
        with LLM(plain) as llm:
            assert not llm.has_tokenizer
            with pytest.raises(UserError, match="no tokenizer"):
                llm.generate(["Hello"])

    def test_text_is_encoded_with_what_the_model_expects(self, texts: Path) -> None:
        with LLM(texts) as llm:
            assert llm.has_tokenizer
            ids = llm.tokenizer.encode("Hello")
            assert ids[0] == 0, "BOS"
            completion = llm.generate(["Hello"], GREEDY)[0]
        assert completion.num_prompt_tokens == len(ids)
        assert list(completion.token_ids) == alone(ids, 12)

    def test_a_request_larger_than_the_cache(self, plain: Path) -> None:
        with LLM(plain, kv_cache_tokens=16) as llm:
            with pytest.raises(UserError, match="KV pages"):
                llm.generate([[1], [1] * 10], GREEDY)
            assert executor_of(llm).num_steps == 0 and all_free(llm)
            assert len(llm.generate([[1]], GREEDY)[0].token_ids) == 12


class TestOpening:
    def test_not_entered(self, plain: Path) -> None:
        llm = LLM(plain)
        for use in (lambda: llm.generate([[1]]), lambda: next(llm.stream([[1]])), lambda: llm.logits([1])):
            with pytest.raises(UserError, match="with LLM"):
                use()

    def test_left(self, plain: Path) -> None:
        with LLM(plain) as llm:
            llm.generate([[1]], GREEDY)
        for use in (lambda: llm.generate([[1]]), lambda: llm.logits([1])):
            with pytest.raises(UserError, match="with LLM"):
                use()

    def test_left_while_a_stream_is_open(self, plain: Path) -> None:
        with LLM(plain) as llm:
            stream = llm.stream([[1]], GREEDY)
            next(stream)
        with pytest.raises(UserError, match="with LLM"):
            next(stream)

    def test_the_executor_is_closed(self, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        events: list[object] = []

        @contextlib.contextmanager
        def opened(runstream: Runstream, options: RankOptions, on_load: object) -> Iterator[FakeExecutor]:
            events.append((options, on_load))
            yield FakeExecutor(runstream.manifest, options.num_pages)
            events.append("closed")

        monkeypatch.setattr(engine, "open_executor", opened)
        options: dict[str, Any] = {"verify_hash": True, "num_threads": 3, "huge_pages": "off"}
        with LLM(plain, kv_cache_tokens=17, on_load=print, **options):
            assert events == [(RankOptions(num_pages=5, **options), print)], "pages are rounded up"
        assert events[1:] == ["closed"]

    @pytest.mark.parametrize("kv_cache_tokens", [0, -1, -100])
    def test_no_cache(self, plain: Path, kv_cache_tokens: int) -> None:
        with pytest.raises(UserError, match=f"kv_cache_tokens is {kv_cache_tokens}"):
            LLM(plain, kv_cache_tokens=kv_cache_tokens)

    def test_the_default_cache_holds_a_full_context(self, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with LLM(plain) as llm:
            assert llm._allocator.num_pages == 8 * CONTEXT // PAGE
        monkeypatch.setattr(engine, "available_memory_bytes", lambda: 1)
        with LLM(plain) as llm:
            assert llm._allocator.num_pages == CONTEXT // PAGE

    def test_not_a_runstream(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="not a runstream"):
            LLM(tmp_path)


class TestDefaultSampling:
    def test_without_generation_config(self, plain: Path) -> None:
        assert LLM(plain).default_sampling() == SamplingParams()

    def test_from_generation_config(self, tmp_path: Path) -> None:
        config = {"do_sample": True, "temperature": 0.3, "top_k": 5, "top_p": 0.85, "repetition_penalty": 1.05}
        with_tokenizer(tmp_path, generation_config=config | {"max_new_tokens": 99, "transformers_version": "4"})
        llm = LLM(tmp_path)
        expected = SamplingParams(max_new_tokens=99, temperature=0.3, top_k=5, top_p=0.85, repetition_penalty=1.05)
        assert llm.default_sampling() == expected
        overridden = llm.default_sampling(temperature=0.0, max_new_tokens=3, stop=("x",), top_k=None)
        assert (overridden.temperature, overridden.max_new_tokens, overridden.stop) == (0.0, 3, ("x",))
        assert (overridden.top_k, overridden.top_p) == (5, 0.85), "None does not override"

    def test_greedy_unless_it_says_sample(self, tmp_path: Path) -> None:
        with_tokenizer(tmp_path, generation_config={"temperature": 0.3})
        assert LLM(tmp_path).default_sampling().temperature == 0.0


class TestLogits:
    TOKENS = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4)

    def expected(self) -> np.ndarray[Any, Any]:
        ids = np.array(self.TOKENS, np.int32)
        return np.stack([model_logits(ids[: i + 1], VOCAB) for i in range(len(ids))])

    @pytest.mark.parametrize(
        ("chunk_tokens", "steps"),
        [(None, [8, 8, 4]), (1, [1] * 20), (3, [3] * 6 + [2]), (8, [8, 8, 4]), (1000, [8, 8, 4])],
    )
    def test_every_token_whatever_the_chunks(self, plain: Path, chunk_tokens: int | None, steps: list[int]) -> None:
        with LLM(plain) as llm:
            logits = llm.logits(iter(self.TOKENS), chunk_tokens=chunk_tokens)
            assert executor_of(llm).num_tokens == steps
            assert all_free(llm)
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, self.expected())

    def test_the_whole_context(self, plain: Path) -> None:
        with LLM(plain, kv_cache_tokens=CONTEXT) as llm:
            assert llm.logits([1] * CONTEXT).shape == (CONTEXT, VOCAB)

    @pytest.mark.parametrize(
        ("tokens", "found"),
        [
            ([], "empty"),
            ([1] * (CONTEXT + 1), f"{CONTEXT + 1} tokens"),
            ([1, -1], "token id -1"),
            ([1, VOCAB], f"token id {VOCAB}"),
        ],
    )
    def test_bad_tokens(self, plain: Path, tokens: list[int], found: str) -> None:
        with LLM(plain) as llm:
            with pytest.raises(UserError, match=found):
                llm.logits(tokens)
            assert executor_of(llm).num_steps == 0 and all_free(llm)

    @pytest.mark.parametrize("chunk_tokens", [0, -1])
    def test_bad_chunk(self, plain: Path, chunk_tokens: int) -> None:
        with LLM(plain) as llm, pytest.raises(UserError, match=f"chunk_tokens is {chunk_tokens}"):
            llm.logits([1, 2], chunk_tokens=chunk_tokens)

    def test_a_failing_step_frees_the_pages(self, plain: Path) -> None:
        with LLM(plain) as llm:
            executor_of(llm).fail_at = 1
            with pytest.raises(OSError, match="the step failed"):
                llm.logits(self.TOKENS)
            assert all_free(llm)

    def test_more_than_the_cache_holds(self, plain: Path) -> None:
        with LLM(plain, kv_cache_tokens=16) as llm:
            with pytest.raises(UserError) as caught:
                llm.logits(self.TOKENS)
            assert "5 KV pages" in caught.value.found and "kv_cache_tokens" in caught.value.fix
            assert all_free(llm)

    def test_beside_an_open_stream(self, plain: Path) -> None:
        with LLM(plain) as llm:
            stream = llm.stream([PROMPTS[1]], GREEDY)
            first = next(stream)
            np.testing.assert_array_equal(llm.logits(self.TOKENS), self.expected())
            tokens = [token for piece in (first, *stream) for token in piece.token_ids]
        assert tokens == alone(PROMPTS[1], 12)


class TestStatistics:
    def test_tokens_are_counted(self, plain: Path) -> None:
        with LLM(plain) as llm:
            llm.generate(PROMPTS, GREEDY)
            statistics = llm.statistics
        num_prompt_tokens = sum(map(len, PROMPTS))
        assert statistics.num_prefill_tokens == num_prompt_tokens
        assert statistics.num_decode_tokens == 11 * len(PROMPTS), "the first token comes out of the prefill"
        assert statistics.num_first_tokens == len(PROMPTS)
        assert json.dumps(statistics.to_dict())
