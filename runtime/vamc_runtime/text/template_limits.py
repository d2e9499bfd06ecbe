"""Bounds on what a chat template may do: a checkpoint's template is somebody else's program.

Jinja's sandbox keeps a template away from the machine, and limits `range`; it does not keep it from looping for hours
over nested ranges or from building gigabytes of text. Here every turn of a loop and every call of a macro looks at the
clock, and operations that can make a large text out of small ones look at the size first. A template that stays within
the limits gives exactly what it gives without them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sized
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_SECONDS = 10.0
"""Longest time for one rendering."""
MAX_SIZE = 1 << 24
"""Longest text and list, in characters and items; also the largest number of bits of an integer, times 1000."""
_WIDE_FORMAT = re.compile(r"\d{8,}|\*")
_PADDING = ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap")


class TemplateLimitError(jinja2.TemplateError):
    """A template did more than a chat template needs."""


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, with bounds on time and size."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._deadline = 0.0
        for name in ("replace", "join", "center", "indent", "wordwrap", "format"):
            self.filters[name] = self._checked_filter(name, self.filters[name])

    def start(self) -> None:
        """Begin the time of a rendering."""
        self._deadline = time.monotonic() + MAX_SECONDS

    def tick(self) -> str:
        """Called in every turn of a loop and every call of a macro.

        Raises:
            TemplateLimitError: the time is up.
        """
        if time.monotonic() > self._deadline:
            raise TemplateLimitError(f"it runs for more than {MAX_SECONDS:g} seconds")
        return ""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        repeated: list[Any] = list(template.find_all((nodes.For, nodes.Macro, nodes.CallBlock)))
        for node in repeated:
            tick = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
            node.body.insert(0, nodes.Output([tick], lineno=node.lineno))
        return _checked_concatenations(template)

    def concatenate(self, *values: object) -> str:
        """The operator `~`."""
        texts = [str(value) for value in values]
        _check_size(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
            _check_size(len(left) + len(right))
        elif operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_size(abs(_bits(left) * (right if isinstance(right, int) else 1)) * 1000)
        elif operator == "%" and isinstance(left, str):
            _check_format(left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            _check_text_method(getattr(method, "__name__", ""), owner, [*args, *kwargs.values()])
        return super().call(context, obj, *args, **kwargs)

    def _checked_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        takes_environment = hasattr(function, "jinja_pass_arg")

        def checked(*args: Any, **kwargs: Any) -> Any:
            value, *rest = args[1:] if takes_environment else args
            if name == "join":
                value = list(value)
                args = (args[0], value, *rest) if takes_environment else (value, *rest)
                _check_text_method("join", str(next(iter([*rest, *kwargs.values()]), "")), [value])
            else:
                _check_text_method(name, str(value), [*rest, *kwargs.values()])
            return function(*args, **kwargs)

        checked.__dict__.update(getattr(function, "__dict__", {}))  # how Jinja knows what to pass
        return checked


def _checked_concatenations(template: nodes.Template) -> nodes.Template:
    """`a ~ b` becomes a call that looks at the sizes."""

    class Rewriter(jinja2.visitor.NodeTransformer):
        def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802 - Jinja's name
            self.generic_visit(node)
            function = nodes.EnvironmentAttribute("concatenate", lineno=node.lineno)
            return nodes.Call(function, node.nodes, [], None, None, lineno=node.lineno)

    rewritten = Rewriter().visit(template)
    assert isinstance(rewritten, nodes.Template), "a template stays one"
    assert template.environment is not None, "the parser sets it"
    rewritten.set_environment(template.environment)
    return rewritten


def _check_text_method(name: str, text: str, arguments: list[Any]) -> None:
    numbers = [value for value in arguments if isinstance(value, int)]
    if name in _PADDING:
        _check_size(max(map(abs, numbers), default=0) * (max(1, text.count("\n") + 1) if name == "indent" else 1))
    elif name == "replace" and len(arguments) >= 2:
        old, new = str(arguments[0]), str(arguments[1])
        _check_size(len(text) + text.count(old) * len(new))
    elif name == "join" and arguments and isinstance(arguments[0], Sized):
        items: Any = arguments[0]
        length = len(items) if isinstance(items, str) else sum(len(item) for item in items if isinstance(item, str))
        _check_size(length + len(text) * len(items))
    elif name in ("format", "format_map"):
        _check_format(text, arguments)


def _check_format(layout: str, values: object) -> None:
    if _WIDE_FORMAT.search(layout):
        raise TemplateLimitError("a format with a width of more than seven digits, or one given as an argument")
    parts = values if isinstance(values, (list, tuple)) else [values]
    longest = max((len(part) for part in parts if isinstance(part, Sized)), default=0)
    _check_size(len(layout) + longest * (layout.count("%") + layout.count("{")))


def _check_product(left: Any, right: Any) -> None:
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, (str, list, tuple)) and isinstance(count, int):
            _check_size(len(sequence) * count)
    _check_size((_bits(left) + _bits(right)) * 1000)


def _bits(value: object) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise TemplateLimitError(f"it builds a value of more than {MAX_SIZE} characters or items")
