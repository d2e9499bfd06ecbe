"""What `LLM` takes as prompts, ids, messages and settings, and what it refuses: nothing is taken for something else."""

from __future__ import annotations

import array
import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import fake_runstream as fake
import numpy as np
import pytest
import tiny_tokenizers as tiny
from fake_executor import FakeExecutor
from hypothesis import given
from hypothesis import strategies as st

from vamc_runtime import LLM, Message, SamplingParams, UserError, engine
from vamc_runtime.ranks.options import RankOptions
from vamc_runtime.requests import token_ids
from vamc_runtime.runstream import Runstream

PARAMS = SamplingParams(max_new_tokens=3)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    @contextlib.contextmanager
    def open_executor(runstream: Runstream, options: RankOptions, on_load: object) -> Iterator[FakeExecutor]:
        yield FakeExecutor(runstream.manifest, options.num_pages)

    folder = tmp_path_factory.mktemp("requests")
    tiny.write_json(folder / "tokenizer", tiny.byte_level_json(), tokenizer_config={"eos_token": "<tool call>"})
    fake.build(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "open_executor", open_executor)
        with LLM(folder) as opened:
            yield opened


@pytest.fixture
def plain(llm: LLM) -> list[int]:
    """The output of the prompt [1, 2, 3]."""
    return list(llm.generate([[1, 2, 3]], PARAMS)[0].token_ids)


@pytest.mark.parametrize(
    "ids",
    [
        (1, 2, 3),
        range(1, 4),
        np.array([1, 2, 3]),
        np.array([1, 2, 3], np.uint8),
        [np.int64(1), np.int32(2), 3],
        array.array("i", [1, 2, 3]),
        (i for i in (1, 2, 3)),
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_whole_numbers_of_every_kind(llm: LLM, plain: list[int], ids: Any) -> None:
    assert list(llm.generate([ids], PARAMS)[0].token_ids) == plain


def test_prompts_in_every_kind_of_list(llm: LLM, plain: list[int]) -> None:
    kinds: list[Any] = [([1, 2, 3],), np.array([[1, 2, 3]]), ([1, 2, 3] for _ in range(1))]
    for prompts in kinds:
        assert [list(out.token_ids) for out in llm.generate(prompts, PARAMS)] == [plain]
    generator: Any = iter([[1, 2, 3]])
    assert [piece.token_ids[0] for piece in llm.stream(generator, PARAMS)] == plain


NOT_IDS: list[Any] = [
    [1.9, 5.2],
    [1.0, 2.0],
    [float("nan")],
    [float("inf")],
    [True, False],
    [np.bool_(True)],
    np.array([1.0, 2.0]),
    np.array([True]),
    np.array([[1, 2]]),
    np.array(5),
    np.array(["1"]),
    [[1, 2]],
    [None],
    ["1"],
    [b"1"],
    [Fraction(1)],
    [1 + 0j],
    [np.array([1])],
    b"Hello",
    bytearray(b"Hello"),
    memoryview(b"Hello"),
    {1: 2},
    {1, 2},
    frozenset([1]),
    None,
    5,
    1.5,
    object(),
    Message("user", "hello"),
]


@pytest.mark.parametrize("ids", NOT_IDS, ids=lambda ids: f"{type(ids).__name__} {str(ids)[:20].partition(' at 0x')[0]}")
def test_what_is_not_token_ids(llm: LLM, ids: Any) -> None:
    for use in (
        lambda: llm.generate([[1], ids], PARAMS),
        lambda: llm.stream([ids], PARAMS),
        lambda: llm.logits(ids),
    ):
        with pytest.raises(UserError) as caught:
            use()
        assert caught.value.found and caught.value.expected


@pytest.mark.parametrize("ids", [[-1], [10**9], [2**40], [-(2**70)]])
def test_ids_outside_the_vocabulary(llm: LLM, ids: list[int]) -> None:
    for use in (lambda: llm.generate([ids], PARAMS), lambda: llm.logits(ids)):
        with pytest.raises(UserError, match="token id"):
            use()


@pytest.mark.parametrize(
    "prompts",
    ["Hello", "", b"Hello", bytearray(b"x"), None, 5, {"Hello": 1}, {"Hello"}, np.array(5), object(), [1, 2, 3]],
    ids=lambda prompts: f"{type(prompts).__name__}",
)
def test_what_is_not_a_list_of_prompts(llm: LLM, prompts: Any) -> None:
    for use in (llm.generate, llm.stream):
        with pytest.raises(UserError) as caught:
            use(prompts, PARAMS)
        assert caught.value.expected


def test_one_text_is_told_what_to_do(llm: LLM) -> None:
    with pytest.raises(UserError, match=r"`prompts` is one text, 'Hello'") as caught:
        llm.generate("Hello", PARAMS)
    assert "put a single prompt into a list" in caught.value.fix


def test_half_a_surrogate_pair(llm: LLM) -> None:
    with pytest.raises(UserError, match=r"'\\udcff' at position 1"):
        llm.generate(["a\udcff"], PARAMS)


@pytest.mark.parametrize("params", [{"max_new_tokens": 3}, 3, "greedy", [PARAMS], SamplingParams], ids=str)
def test_what_is_not_sampling_parameters(llm: LLM, params: Any) -> None:
    for use in (
        lambda: llm.generate([[1]], params),
        lambda: llm.stream([[1]], params),
        lambda: llm.encode_chat([Message("user", "x")], params),
    ):
        with pytest.raises(UserError, match="sampling parameters") as caught:
            use()
        assert "SamplingParams" in caught.value.expected


@pytest.mark.parametrize(
    "messages",
    ["Hello", b"x", None, {"role": "user"}, Message("user", "x"), [{"role": "user", "content": "x"}], ["Hello"], 5],
    ids=lambda messages: f"{type(messages).__name__}",
)
def test_what_is_not_messages(llm: LLM, messages: Any) -> None:
    with pytest.raises(UserError) as caught:
        llm.encode_chat(messages, PARAMS)
    assert "message" in caught.value.expected.lower()


@pytest.mark.parametrize("value", [1.5, True, "8", float("nan"), [8], 0, -3])
def test_counts(llm: LLM, value: Any) -> None:
    with pytest.raises(UserError, match="chunk_tokens is"):
        llm.logits([1, 2], chunk_tokens=value)
    with pytest.raises(UserError, match="kv_cache_tokens is"):
        LLM(llm._runstream.path, kv_cache_tokens=value)


@pytest.mark.parametrize("path", [None, 5, b"x", ["x"]])
def test_paths(path: Any) -> None:
    with pytest.raises(UserError, match="path of the runstream"):
        LLM(path)


@pytest.mark.parametrize("use", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda use: str(use.__name__))
def test_no_copies(llm: LLM, use: Callable[[Any], Any]) -> None:
    with pytest.raises(UserError, match="cannot be copied or sent") as caught:
        use(llm)
    assert "path of the runstream" in caught.value.fix


number = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=2), st.binary(max_size=2))


@given(st.lists(number, max_size=6))
def test_a_list_is_taken_as_it_is_or_refused(values: list[Any]) -> None:
    if all(type(value) is int for value in values):
        assert token_ids(values) == values
    else:
        with pytest.raises(UserError, match="at position"):
            token_ids(values)


class BytesPath:
    """A path in bytes, as `os.fspath` allows."""

    def __fspath__(self) -> bytes:
        return b"runstream"


BAD_SETTINGS: dict[str, list[Any]] = {
    "path": [b"runstream", BytesPath(), "run\0stream", None, 3, []],
    "num_threads": [0, -1, 1.5, 1.0, "1", True, float("nan"), []],
    "verify_hash": ["no", "", 1, 0, None],
    "self_test": ["no", "", 1, 0, None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD_SETTINGS for value in BAD_SETTINGS[name]])
def test_what_a_runstream_is_not_opened_with(llm: LLM, name: str, value: Any) -> None:
    settings: dict[str, Any] = {"path": llm._runstream.path, name: value}
    with pytest.raises(UserError) as caught:
        LLM(**settings)
    assert caught.value.expected
    assert (name if name != "path" else "path of the runstream") in caught.value.found


def test_numpy_settings(llm: LLM) -> None:
    path = llm._runstream.path
    LLM(path, num_threads=np.int64(1), kv_cache_tokens=np.int32(16), verify_hash=np.bool_(True))  # type: ignore[arg-type]
