"""A Jinja chat template as transformers 5 runs it: which file holds it, what it may use, what it sees.

Follows transformers 5.24, `utils/chat_template_utils._cached_compile_jinja_template`,
`PreTrainedTokenizerBase._from_pretrained` and `.get_chat_template`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser

from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.checkpoint_files import read_json, read_text
from vamc_runtime.text.template_limits import MAX_SIZE, LimitedEnvironment, TemplateLimitError

_FILE = "chat_template.jinja"
_FOLDER = "additional_chat_templates"
_NO_TEMPLATE = "user_token_id and assistant_token_id in generation_config.json, or a chat template"


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja text.
        origin: where it stands, for messages.

    Raises:
        UserError: the template has an error.
    """

    def __init__(self, source: str, origin: ReadablePath) -> None:
        self._environment = _environment()
        try:
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"the chat template of {origin} has an error in line {error.lineno}: {error.message}",
                fix="correct the template, or run without --chat",
            ) from error
        except Exception as error:  # constant expressions are computed at once, and may raise anything
            raise UserError(
                f"the chat template of {origin} cannot be compiled: {error!r}",
                fix="correct the template, or run without --chat",
            ) from error

    def render(self, messages: Sequence[Mapping[str, str]], special_tokens: Mapping[str, str]) -> str:
        """The prompt that asks for the assistant's next message.

        Args:
            messages: objects with role and content.
            special_tokens: texts by the names under which the template may write them.

        Raises:
            UserError: the template refuses the messages, fails on them, or does too much.
        """
        names = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        self._environment.start()
        parts, size = [], 0
        try:
            for part in self._template.generate({**special_tokens, **names}):
                parts.append(part)
                size += len(part)
                if size > MAX_SIZE:
                    raise TemplateLimitError(f"it writes more than {MAX_SIZE} characters")
                self._environment.tick()
        except Exception as error:  # a template is the checkpoint's code: whatever it raises is about its input
            raise UserError(
                f"the chat template refuses the messages: {error}",
                expected="roles in the order the model was trained on",
                fix="change the messages, or run without --chat",
            ) from error
        return "".join(parts)


def find_template(directory: ReadablePath) -> tuple[str, ReadablePath]:
    """The template that transformers takes, and where it stands.

    chat_template.jinja and additional_chat_templates/*.jinja go before `chat_template` in tokenizer_config.json, a
    text or a list of named ones; of several, the one named default is taken.

    Raises:
        UserError: there is none, none named default, or a damaged one.
    """
    path = directory / _FILE
    files: dict[str, ReadablePath] = {"default": path} if path.is_file() else {}
    others = {file.name.removesuffix(".jinja"): file for file in (directory / _FOLDER).glob("*.jinja")}
    files |= dict(sorted(others.items()))
    if files:
        if "default" not in files:
            raise _no_default(list(files), directory / _FOLDER)
        return _newlines(read_text(files["default"])), files["default"]
    path = directory / "tokenizer_config.json"
    source = read_json(path).get("chat_template")
    if isinstance(source, list):
        source = _named(source, path)
    if source is None or source == "":
        raise UserError(
            f"the model in {directory} has no chat format",
            expected=_NO_TEMPLATE,
            fix="run without --chat, or use the chat version of the model",
        )
    if not isinstance(source, str):
        raise _not_a_template(source, path)
    return source, path


def _named(entries: Sequence[object], path: ReadablePath) -> str:
    named = {}
    for entry in entries:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str):
            raise _not_a_template(entry, path)
        named[name] = template
    if "default" not in named:
        raise _no_default(list(named), path)
    return named["default"]


def _newlines(text: str) -> str:
    """Line ends as a file opened as text has them."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _environment() -> LimitedEnvironment:
    environment = LimitedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _TemplateDict()
    environment.globals["namespace"] = _TemplateNamespace
    return environment


class _GenerationTag(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}, which marks the assistant's words for training and changes no text."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body, lineno=line)

    def _text(self, caller: Callable[[], str]) -> str:
        return caller()


class _TemplateDict:
    """`dict` without its attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _TemplateNamespace(jinja2.utils.Namespace):
    """A namespace without private names."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that namespace(self=...) works, as in Jinja
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _TemplateNamespace._check_name(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _TemplateNamespace._check_name(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check_name(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot have an attribute named {name!r}")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter, leaves < > & and non-ASCII text alone."""
    if isinstance(indent, int) and indent > 1000:
        raise TemplateLimitError(f"tojson with an indent of {indent}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _no_default(names: Sequence[str], path: ReadablePath) -> UserError:
    return UserError(
        f"{path} has several chat templates: {', '.join(names)}",
        expected="one named default",
        fix="name the one to use default, or run without --chat",
    )


def _not_a_template(value: object, path: ReadablePath) -> UserError:
    shown = repr(value)[:200]
    return UserError(
        f"{path}: chat_template is {shown}",
        expected='a text, or a list of {"name": ..., "template": ...}',
        fix="copy tokenizer_config.json from the checkpoint again, or run without --chat",
    )
