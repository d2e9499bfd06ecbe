"""Proof that the runtime's tokenizer is the checkpoint's: ids, text and chat prompts of fixed samples are compared."""

from __future__ import annotations

from typing import Any

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.chat import Message, TemplateChat, build_chat
from vamc_runtime.text.tokenizer import Tokenizer

SAMPLES = (
    "",
    " ",
    "The quick brown fox jumps over the lazy dog.",
    "  two leading spaces, two trailing  ",
    "a  b   c\td\n\ne\r\nf\u00a0g\u3000h",
    "it's we'll I'D don't 'quoted' \u201cquoted\u201d",
    "1234567890 3.14159 1,000,000 0x1F",
    "def main():\n\treturn {'key': [1, 2]}  # comment",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff01",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4",
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "e\u0301 \u00e9 \ufb01 \u2460 \uff21 \u212b",
    "\U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f467\U0001f1e9\U0001f1ea\u2764\ufe0f",
    "\x00\x01\x1b\x7f\u200b\ufeff\ufffd\U0010ffff",
    "\u2581visible\u2581spaces <0x0A> \u0120",
)
MAX_SPECIAL_TOKENS = 200
"""So many added tokens are tried in a text; a tokenizer may have thousands of reserved ones."""
_CONVERSATIONS = (
    (("user", "Hi"),),
    (("system", "Be brief."), ("user", "What is 1 + 1?")),
    (("user", " Hi "), ("assistant", "Hello!"), ("user", "\u4f60\u597d\n<s>")),
)


def samples(reference: Any, vocab_size: int) -> list[str]:
    """The texts to compare: fixed ones, and every added token with and without space and text around it.

    Not CodeLlama's <FILL_ME>, with which transformers makes another prompt of the text, where the model has no such
    token: the runtime refuses it then.
    """
    fill = getattr(reference, "fill_token", None)
    tokens = sorted(reference.added_tokens_decoder.items())
    added = [str(token) for token_id, token in tokens if str(token) != fill or token_id < vocab_size]
    few = added[:MAX_SPECIAL_TOKENS] + added[MAX_SPECIAL_TOKENS:][-10:]
    around = [form for token in few for form in (token, f"a{token}b", f"a  {token}  b", f" {token}{token}\n")]
    return [*SAMPLES, *around, " ".join(few), "".join(few)]


def prove(tokenizer: Tokenizer, reference: Any, folder: ReadablePath, vocab_size: int) -> None:
    """Compare the runtime's tokenizer with one that transformers loaded.

    Args:
        tokenizer: the runtime's, loaded from `folder`.
        reference: of transformers.
        folder: the files as the runstream will have them.
        vocab_size: rows of the model's embedding; prompts with other ids are refused.

    Raises:
        UserError: they differ, or transformers cannot encode a text.
    """
    for text in samples(reference, vocab_size):
        for add_special in (True, False):
            expected = encode_as_transformers(reference, text, add_special)
            found = tokenizer.encode(text, add_special)
            if found != expected:
                raise _differs(f"ids of {text!r}", found, expected)
        expected_text = reference.decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        found_text = tokenizer.decode(expected)
        if found_text != expected_text:
            raise _differs(f"text of ids {expected}", repr(found_text), repr(expected_text))
    if getattr(reference, "chat_template", None) is not None:
        _prove_chat(tokenizer, reference, folder)


def encode_as_transformers(reference: Any, text: str, add_special: bool = True) -> list[int]:
    """The ids that a tokenizer of transformers gives.

    Raises:
        UserError: it gives none, for want of a token that its class relies on.
    """
    try:
        ids: list[int] = reference.encode(text, add_special_tokens=add_special)
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the Rust code is no Exception
        raise UserError(
            f"transformers' {type(reference).__name__} cannot encode {_short(repr(text))}: {error}",
            expected="a vocabulary that fits the tokenizer_class of tokenizer_config.json",
            fix="copy the tokenizer files from one checkpoint, or correct tokenizer_class",
        ) from error
    return ids


def _prove_chat(tokenizer: Tokenizer, reference: Any, folder: ReadablePath) -> None:
    """Compare chat prompts; what transformers refuses is not compared, and no template has to work at all."""
    try:
        chat = build_chat(folder, tokenizer)
    except UserError:
        return  # said when somebody asks for a chat
    if not isinstance(chat, TemplateChat):
        return
    for conversation in _CONVERSATIONS:
        try:
            messages = [{"role": role, "content": content} for role, content in conversation]
            expected = reference.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception:
            continue  # the template does not take this conversation
        found = chat.render([Message(role, content) for role, content in conversation], 1 << 30)  # type: ignore[arg-type]  # roles are ours
        if found != list(expected) and "strftime_now" not in str(reference.chat_template):
            raise _differs(f"the chat prompt of {conversation}", found, list(expected))


def _differs(what: str, found: object, expected: object) -> UserError:
    return UserError(
        f"the runtime's tokenizer gives other {what} than transformers: {_short(found)}",
        expected=_short(expected),
        fix="report the checkpoint's tokenizer files: this kind is not supported yet",
    )


def _short(value: object) -> str:
    shown = str(value)
    return shown if len(shown) <= 300 else f"{shown[:300]}..."
