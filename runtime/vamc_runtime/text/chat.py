"""Chat messages to prompt ids, in the format the model was trained on.

Two formats: Baichuan's token pair of generation_config.json, and the Jinja chat template that
other checkpoints publish.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.tokenizer import Tokenizer
from vamc_runtime.text.tokenizer_config import read_generation_settings

if TYPE_CHECKING:
    from vamc_runtime.text.chat_template import ChatTemplate

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Raises:
        UserError: an unknown role, or content that is not text.
    """

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise UserError(
                f"the role of a message is {self.role!r}",
                expected=f"one of {', '.join(get_args(Role))}",
                fix="correct the role",
            )
        if not isinstance(self.content, str):
            raise UserError(
                f"the content of a {self.role} message is a {type(self.content).__name__}",
                expected="text",
                fix="pass the content as one string",
            )


class ChatFormat(Protocol):
    """Turns a conversation into a prompt."""

    def render(self, messages: Sequence[Message], max_tokens: int) -> list[int]:
        """The prompt that asks for the assistant's next message, at most `max_tokens` ids.

        What is too long loses its oldest rounds; the system message stays where that is possible.

        Raises:
            UserError: roles in an order the model was not trained on, or a prompt that cannot be shortened.
        """


@dataclass(frozen=True, kw_only=True)
class BaichuanChat:
    """system ids, then user_token + ids and assistant_token + ids per round, then assistant_token."""

    tokenizer: Tokenizer
    user_id: int
    """Id that opens a user's message (195 in Baichuan2)."""
    assistant_id: int
    """Id that opens an answer (196 in Baichuan2)."""

    def render(self, messages: Sequence[Message], max_tokens: int) -> list[int]:
        system, rest = split_system(messages)
        for index, message in enumerate(rest):
            wanted = "assistant" if index % 2 else "user"
            if message.role != wanted:
                raise _bad_order(f"message {index + 1} after the system message is from {message.role}", messages)
        if max_tokens < 3:
            raise _too_long(3, max_tokens)

        def encode(message: Message) -> list[int]:
            return self.tokenizer.encode(message.content, add_special=False)

        system_ids = encode(system) if system else []
        if len(system_ids) + 3 > max_tokens:  # the two role tokens and one of text must fit beside it
            system_ids = []
        room = max_tokens - len(system_ids) - 1  # the last assistant token
        last = encode(rest[-1])
        history = [self.user_id, *last[max(0, len(last) - room + 1) :]]
        for user, assistant in zip(rest[-3::-2], rest[-2::-2], strict=True):
            ids = [self.user_id, *encode(user), self.assistant_id, *encode(assistant)]
            if len(history) + len(ids) > room:
                break
            history = ids + history
        return [*system_ids, *history, self.assistant_id]


@dataclass(frozen=True, kw_only=True)
class TemplateChat:
    """A Jinja chat template."""

    tokenizer: Tokenizer
    template: ChatTemplate

    def render(self, messages: Sequence[Message], max_tokens: int) -> list[int]:
        system, rest = split_system(messages)
        head = [system] if system else []
        # Every round starts at a user's message; dropping more of them never makes the prompt longer.
        starts = [0, *(i for i, message in enumerate(rest) if message.role == "user" and i)]
        prompts: dict[int, list[int]] = {}

        def fits(start: int) -> bool:
            prompts[start] = self._encode([*head, *rest[start:]])
            return len(prompts[start]) <= max_tokens

        if fits(0):
            return prompts[0]
        index = bisect_left(starts, True, lo=1, key=fits)
        if index == len(starts):
            raise _too_long(len(self._encode([*head, *rest[starts[-1] :]])), max_tokens)
        return prompts[starts[index]]

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        objects = [{"role": message.role, "content": message.content} for message in messages]
        text = self.template.render(objects, self.tokenizer.special_tokens)
        # The template writes BOS itself where the model wants it.
        return self.tokenizer.encode(text, add_special=False)


def build_chat(directory: ReadablePath, tokenizer: Tokenizer) -> ChatFormat:
    """The chat format that the files beside a tokenizer describe.

    Baichuan's token ids in generation_config.json win over a template.

    Raises:
        UserError: the files describe none, or a damaged one.
    """
    from vamc_runtime.text.chat_template import ChatTemplate, find_template

    generation = read_generation_settings(directory)
    user_id, assistant_id = generation.get("user_token_id"), generation.get("assistant_token_id")
    if isinstance(user_id, int) and isinstance(assistant_id, int):
        return BaichuanChat(tokenizer=tokenizer, user_id=user_id, assistant_id=assistant_id)
    return TemplateChat(tokenizer=tokenizer, template=ChatTemplate(*find_template(directory)))


def split_system(messages: Sequence[Message]) -> tuple[Message | None, Sequence[Message]]:
    """The system message, if any, and the others.

    Raises:
        UserError: no messages, a system message that is not first, or no user message at the end.
    """
    system = messages[0] if messages and messages[0].role == "system" else None
    rest = messages[1:] if system else messages
    if any(message.role == "system" for message in rest):
        raise _bad_order("a system message is not the first message", messages)
    if not rest or rest[-1].role != "user":
        raise _bad_order("the last message is not from the user", messages)
    return system, rest


def _bad_order(found: str, messages: Sequence[Message]) -> UserError:
    roles = ", ".join(message.role for message in messages) or "no messages"
    return UserError(
        f"{found} (roles: {roles})",
        expected="an optional system message, then user and assistant in turns, a user message last",
        fix="reorder the messages",
    )


def _too_long(num_tokens: int, max_tokens: int) -> UserError:
    return UserError(
        f"the last message alone makes a prompt of {num_tokens} tokens",
        expected=f"at most {max_tokens} tokens",
        fix="shorten the message, ask for fewer new tokens, or build with a longer context",
    )
