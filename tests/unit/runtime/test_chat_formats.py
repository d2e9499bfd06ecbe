"""Chat formats: Baichuan's token pair and Jinja templates, their truncation, and what they refuse."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

import pytest
import tiny_tokenizers as tiny

from vamc_runtime.errors import UserError
from vamc_runtime.text.chat import BaichuanChat, ChatFormat, Message, Role, TemplateChat, build_chat
from vamc_runtime.text.tokenizer import Tokenizer, load_tokenizer

USER, ASSISTANT = 3, 4  # <reserved_1> and <reserved_2>, as Baichuan2 reserves 195 and 196
TEMPLATE = """{{ bos_token }}{% for message in messages %}
{% if message.role == 'system' and not loop.first %}{{ raise_exception('system must come first') }}{% endif %}
[{{ message.role }}]{{ message['content'] | trim }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}[assistant]{% endif %}"""


def baichuan(directory: Path) -> tuple[ChatFormat, Tokenizer]:
    generation = {"user_token_id": USER, "assistant_token_id": ASSISTANT}
    tiny.write_sentencepiece(directory, generation_config=generation, tokenizer_config={"add_bos_token": False})
    tokenizer = load_tokenizer(directory)
    return build_chat(directory, tokenizer), tokenizer


def templated(directory: Path, template: Any = TEMPLATE) -> tuple[ChatFormat, Tokenizer]:
    config = {"chat_template": template, "bos_token": "<|begin|>", "eos_token": "<|eot|>"}
    tiny.write_json(directory, tiny.byte_level_json(), tokenizer_config=config)
    tokenizer = load_tokenizer(directory)
    return build_chat(directory, tokenizer), tokenizer


def talk(*contents: str, system: str | None = None) -> list[Message]:
    roles: tuple[Role, Role] = ("user", "assistant")
    messages = [Message(roles[index % 2], content) for index, content in enumerate(contents)]
    return messages if system is None else [Message("system", system), *messages]


def test_baichuan_rounds(tmp_path: Path) -> None:
    chat, tokenizer = baichuan(tmp_path)
    assert isinstance(chat, BaichuanChat)
    system, one, two, three = (tokenizer.encode(text) for text in ("Be brief.", "Hello", "world", "你好"))
    expected = [*system, USER, *one, ASSISTANT, *two, USER, *three, ASSISTANT]
    assert chat.render(talk("Hello", "world", "你好", system="Be brief."), 100) == expected


def test_baichuan_drops_the_oldest_rounds_and_keeps_the_system(tmp_path: Path) -> None:
    chat, tokenizer = baichuan(tmp_path)
    messages = talk("one", "two", "three", "four", "five", system="sys")
    whole = chat.render(messages, 1000)
    system, shorter = tokenizer.encode("sys"), chat.render(messages, len(whole) - 1)
    assert shorter == chat.render(talk("three", "four", "five", system="sys"), 1000)
    assert shorter[: len(system)] == system


def test_baichuan_cuts_the_last_message_from_the_left(tmp_path: Path) -> None:
    chat, tokenizer = baichuan(tmp_path)
    system, text = tokenizer.encode("sys"), tokenizer.encode("The quick brown fox")
    messages = talk("The quick brown fox", system="sys")
    assert chat.render(messages, len(system) + 4) == [*system, USER, *text[-2:], ASSISTANT]
    assert chat.render(messages, len(system) + 2) == [USER, *text[-len(system) :], ASSISTANT]
    with pytest.raises(UserError, match="3 tokens"):
        chat.render(messages, 2)


def test_no_render_is_longer_than_asked(tmp_path: Path) -> None:
    chat, _ = baichuan(tmp_path)
    messages = talk("one two", "three", "four five six", "seven", "eight", system="be nice")
    whole = chat.render(messages, 1000)
    for max_tokens in range(3, len(whole) + 2):
        ids = chat.render(messages, max_tokens)
        assert len(ids) <= max_tokens and ids[-1] == ASSISTANT and USER in ids


def test_template_is_encoded_with_one_bos(tmp_path: Path) -> None:
    chat, tokenizer = templated(tmp_path)
    assert isinstance(chat, TemplateChat)
    ids = chat.render(talk(" Hello ", system="Be brief."), 1000)
    assert ids.count(0) == 1 and ids[0] == 0
    assert ids == tokenizer.encode(
        "<|begin|>[system]Be brief.<|eot|>\n[user]Hello<|eot|>\n[assistant]", add_special=False
    )


def test_template_drops_the_oldest_rounds(tmp_path: Path) -> None:
    chat, _ = templated(tmp_path)
    texts = [f"message {index}" for index in range(9)]
    renders = [chat.render(talk(*texts[start:], system="sys"), 10_000) for start in (0, 2, 4, 6, 8)]
    for longer, shorter in itertools.pairwise(renders):
        assert chat.render(talk(*texts, system="sys"), len(longer) - 1) == shorter
    with pytest.raises(UserError, match=f"a prompt of {len(renders[-1])} tokens"):
        chat.render(talk(*texts, system="sys"), len(renders[-1]) - 1)


def test_named_templates_and_template_file(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    chat, tokenizer = templated(tmp_path / "named", named)
    assert tokenizer.decode(chat.render(talk("x"), 99)) == "yes"
    templated(tmp_path / "file", "config")
    (tmp_path / "file" / "chat_template.jinja").write_text("file")
    assert tokenizer.decode(build_chat(tmp_path / "file", tokenizer).render(talk("x"), 99)) == "file"
    with pytest.raises(UserError, match="a, b"):
        templated(tmp_path / "several", [{"name": "a", "template": "1"}, {"name": "b", "template": "2"}])
    folder = tmp_path / "file" / "additional_chat_templates"
    folder.mkdir()
    (folder / "tool_use.jinja").write_text("tools")
    assert tokenizer.decode(build_chat(tmp_path / "file", tokenizer).render(talk("x"), 99)) == "file"
    (tmp_path / "file" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="tool_use"):
        build_chat(tmp_path / "file", tokenizer)


def test_template_helpers(tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
        "{{ strftime_now('%Y') | length }}"
    )
    chat, tokenizer = templated(tmp_path, source)
    assert tokenizer.decode(chat.render(talk("<你>"), 999)) == '{"role": "user", "content": "<你>"}4'


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(t='ab') %}{% for i in range(99) %}{% set n.t = VALUE %}{% endfor %}{{ n.t | length }}"


@pytest.mark.parametrize(
    "source",
    [
        ENDLESS,
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        DOUBLING.replace("VALUE", "n.t ~ n.t"),
        DOUBLING.replace("VALUE", "n.t + n.t"),
        DOUBLING.replace("VALUE", "n.t * 2"),
        DOUBLING.replace("VALUE", "n.t | replace('a', n.t)"),
        DOUBLING.replace("VALUE", "n.t.replace('a', n.t)"),
        DOUBLING.replace("VALUE", "[n.t, n.t] | join(n.t)"),
        DOUBLING.replace("VALUE", "n.t.join([n.t, n.t])"),
        DOUBLING.replace("VALUE", "'%s%s' % (n.t, n.t)"),
        DOUBLING.replace("VALUE", "'{}{}'.format(n.t, n.t)"),
        "{{ messages[0].content * 10000000000 }}",
        "{{ messages[0].content.center(10000000000) }}",
        "{{ messages[0].content | center(10000000000) }}",
        "{{ '%*d' % (10000000000, 1) }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{% set n = messages | length + 8 %}{{ n ** 1000000000 }}",
        "{% for a in range(99999) %}{{ messages[0].content * 999 }}{% endfor %}",
        "{{ messages | tojson(indent=1000000000) }}",
    ],
)
def test_a_template_that_does_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr("vamc_runtime.text.template_limits.MAX_SECONDS", 0.2)
    chat, _ = templated(tmp_path, source)
    with pytest.raises(UserError, match="the chat template refuses"):
        chat.render(talk("a" * 50), 99)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('only two roles') }}", "only two roles"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].content + 1 }}", "refuses the messages"),
    ],
)
def test_what_a_template_raises_is_an_answer(tmp_path: Path, source: str, says: str) -> None:
    chat, _ = templated(tmp_path, source)
    with pytest.raises(UserError, match=says):
        chat.render(talk("x"), 99)


def test_template_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 2"):
        templated(tmp_path, "fine\n{% if %}")


def test_no_chat_format(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.write_sentencepiece(tmp_path))
    with pytest.raises(UserError, match="without --chat"):
        build_chat(tmp_path, tokenizer)


BAD_ORDERS = [
    [],
    [Message("system", "s")],
    [Message("user", "u"), Message("assistant", "a")],
    [Message("user", "u"), Message("system", "s"), Message("user", "u")],
]


@pytest.mark.parametrize("messages", BAD_ORDERS)
@pytest.mark.parametrize("make", [baichuan, templated])
def test_bad_orders(tmp_path: Path, make: Any, messages: list[Message]) -> None:
    chat, _ = make(tmp_path)
    with pytest.raises(UserError, match="roles: "):
        chat.render(messages, 99)


def test_baichuan_wants_turns(tmp_path: Path) -> None:
    chat, _ = baichuan(tmp_path)
    for messages in ([Message("user", "a")] * 2, [Message("assistant", "a"), Message("user", "b")]):
        with pytest.raises(UserError, match="in turns"):
            chat.render(messages, 99)


def test_bad_messages() -> None:
    with pytest.raises(UserError, match="'robot'"):
        Message(cast(Any, "robot"), "x")  # what a client may send
    with pytest.raises(UserError, match="is a list"):
        Message("user", cast(Any, ["x"]))  # what a client may send
