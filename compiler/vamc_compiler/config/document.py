"""YAML text to a tree with places. Duplicate keys are mistakes here; YAML itself lets the last one win.

PyYAML scans the text; values are typed by YAML 1.1 rules, except that only null, booleans, numbers and
texts exist: a date stays the text it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import yaml

from vamc_compiler.show import one_line

from .problems import Place, Problem, RefusalError
from .scanner import TabLoader
from .tree import Entry, ListTree, ScalarTree, SectionTree, Tree

PlaceOf = Callable[[int, int], Place]  # line and column, from 0

MAX_NUMBER_CHARACTERS = 100  # longer texts are none, however many digits they have
_TOO_DEEP = "nested too deeply to be a build config"
_YAML = "tag:yaml.org,2002:"
_UNUSABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_TEXT_TAGS = {_YAML + kind for kind in ("str", "timestamp", "merge", "value")}


def parse_yaml(text: str, place_of: PlaceOf, key: str = "") -> tuple[Tree | None, list[Problem]]:
    """The document's tree, None when there is none, and the mistakes that do not prevent one.

    Args:
        text: the YAML text.
        place_of: names a position in it.
        key: the dotted key the document is the value of; empty for a whole config.

    Raises:
        RefusalError: the text is no YAML, or uses YAML features that a config has no use for.
    """
    loader = None
    try:
        loader = TabLoader(text)
        root = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = place_of(before.count("\n"), len(before) - (before.rfind("\n") + 1))
        raise RefusalError(place, "not YAML: a character that cannot be printed") from error
    except yaml.MarkedYAMLError as error:
        raise _syntax_refusal(error, place_of, text) from error
    except RecursionError as error:
        raise RefusalError(place_of(0, 0), _TOO_DEEP) from error
    except Exception as error:  # PyYAML lets Python's own errors through, for example for the escape "\U00110000"
        line, column = (loader.line, loader.column) if loader is not None else (0, 0)
        raise RefusalError(place_of(line, column), f"not YAML: {error}") from error
    if root is None:
        return None, []
    converter = _Converter(place_of)
    try:
        return converter.tree(root, key), converter.problems
    except RecursionError as error:
        raise RefusalError(place_of(0, 0), _TOO_DEEP) from error


def plain_value(text: str) -> bool | int | float | str | None:
    """What a text means as an unquoted YAML scalar."""
    resolve: Callable[..., str] = yaml.SafeLoader("").resolve  # untyped in the stubs
    tag = resolve(yaml.ScalarNode, text, (True, False))
    return _scalar_value(yaml.ScalarNode(tag, text))


def unusable_characters(text: str) -> str:
    """The first control character or half of a surrogate pair in a text, escaped; empty when there is none."""
    found = _UNUSABLE.search(text)
    return "" if found is None else one_line(found.group())


def _scalar_value(node: yaml.ScalarNode) -> bool | int | float | str | None:
    construct = yaml.constructor.SafeConstructor()
    text = str(node.value)
    if node.tag == _YAML + "null":
        return None
    if len(text) > MAX_NUMBER_CHARACTERS:
        return text
    try:
        if node.tag == _YAML + "bool":
            return bool(construct.construct_yaml_bool(node))
        if node.tag == _YAML + "int":
            return int(construct.construct_yaml_int(node))
        if node.tag == _YAML + "float":
            return float(construct.construct_yaml_float(node))
    except (ValueError, LookupError, OverflowError):  # `!!int ten`, `!!int ""`, or more digits than Python converts
        return text
    return text


def _syntax_refusal(error: yaml.MarkedYAMLError, place_of: PlaceOf, text: str) -> RefusalError:
    mark = error.problem_mark or error.context_mark
    place = place_of(mark.line, mark.column) if mark else place_of(0, 0)
    reason = ", ".join(str(part) for part in (error.context, error.problem) if part)
    line = text.splitlines()[mark.line : mark.line + 1] if mark else []
    indents = bool(line) and mark is not None and "\t" in line[0] and not line[0][: mark.column].strip(" \t")
    fix = "indent with spaces, not with tabs" if indents else ""
    return RefusalError(place, f"not YAML: {reason}", fix=fix)


@dataclass
class _Converter:
    """Composed YAML nodes to trees; a node that aliases share is converted once."""

    place_of: PlaceOf
    problems: list[Problem] = field(default_factory=list)
    _done: dict[int, Tree] = field(default_factory=dict)
    _open: set[int] = field(default_factory=set)

    def tree(self, node: yaml.Node, key: str) -> Tree:
        known = self._done.get(id(node))
        if known is not None:
            return known
        if id(node) in self._open:
            raise RefusalError(self._place(node), "an alias that contains itself")
        self._open.add(id(node))
        result = self._convert(node, key)
        self._open.remove(id(node))
        self._done[id(node)] = result
        return result

    def _convert(self, node: yaml.Node, key: str) -> Tree:
        place = self._place(node)
        if isinstance(node, yaml.MappingNode) and node.tag == _YAML + "map":
            return SectionTree(place=place, entries=self._entries(node, key))
        if isinstance(node, yaml.SequenceNode) and node.tag == _YAML + "seq":
            return ListTree(place=place, items=tuple(self.tree(item, key) for item in node.value))
        scalar_tags = _TEXT_TAGS | {_YAML + kind for kind in ("null", "bool", "int", "float")}
        if isinstance(node, yaml.ScalarNode) and node.tag in scalar_tags:
            self._check_text(str(node.value), place)
            quoted = node.style is not None
            return ScalarTree(place=place, value=_scalar_value(node), text=str(node.value), quoted=quoted)
        raise RefusalError(place, f"the YAML tag {one_line(node.tag.replace(_YAML, '!!'))}", fix="remove the tag")

    def _entries(self, node: yaml.MappingNode, section: str) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise RefusalError(place, "a list or section used as a key", expected="a name")
            name = str(key_node.value)
            self._check_text(name, place)
            if key_node.tag == _YAML + "merge":
                raise RefusalError(place, "a merge key (<<)", fix="write the keys out; anchors and aliases work")
            key = f"{section}.{name}" if section else name
            tree = self.tree(value_node, key)
            if name in entries:
                found = f"duplicate key, first given at {entries[name].place}"
                self.problems.append(Problem(place=place, key=key, found=found, fix="keep one of the two"))
            else:
                entries[name] = Entry(place=place, tree=tree)
        return entries

    def _check_text(self, text: str, place: Place) -> None:
        """Refuse texts that no file in UTF-8 and no terminal can take."""
        if found := unusable_characters(text):
            raise RefusalError(place, f"a text with the character {found}", expected="printable characters")

    def _place(self, node: yaml.Node) -> Place:
        return self.place_of(node.start_mark.line, node.start_mark.column)
