"""Tabs in YAML: separation as spaces are, never indentation. The oracle is the same text with spaces, or libyaml."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vamc_compiler.config.document import parse_yaml
from vamc_compiler.config.problems import Place, RefusalError
from vamc_compiler.config.scanner import TabLoader


def place_of(line: int, column: int) -> Place:
    return Place("build.yaml", line + 1, column + 1)


def load(text: str) -> Any:
    """What the scanner reads, as plain data."""
    return yaml.load(text, Loader=TabLoader)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\t1\nb:\t\t2\n", {"a": 1, "b": 2}),
        ("a: 1\n\t\nb: 2\n", {"a": 1, "b": 2}),
        ("a: 1\n \t \n\t\t\nb: 2\n", {"a": 1, "b": 2}),
        ("a:\t\n  b: 1\n", {"a": {"b": 1}}),
        ("a: 1\t\nb: x y\t\n", {"a": 1, "b": "x y"}),
        ("a: 1\t# one\n\t# two\nb: 2 \t # three\n", {"a": 1, "b": 2}),
        ("-\t1\n- \t2\n", [1, 2]),
        ("a: [1,\t2,\n\t3]\nb: {c:\t4}\n", {"a": [1, 2, 3], "b": {"c": 4}}),
        ("a\t: 1\n", {"a": 1}),
        ('"a"\t:\t"b"\n', {"a": "b"}),
        ("a:\t&x 1\nb:\t*x\n", {"a": 1, "b": 1}),
        ("a: 1\n\t", {"a": 1}),
        ("\t\na: 1\n", {"a": 1}),
        ("a:\r\n\t\r\n  b:\t1\r\n", {"a": {"b": 1}}),
        # Within texts a tab is content.
        ('a: "b\tc"\n', {"a": "b\tc"}),
        ("a: 'b\tc'\n", {"a": "b\tc"}),
        ("a: b\tc\n", {"a": "b\tc"}),
        ("a: |\n  b\tc\n  \td\n", {"a": "b\tc\n\td\n"}),
        ("a: b\n\n\t\n  c\n", {"a": "b\n\nc"}),
        ("a: b\n \tc\n", {"a": "b c"}),
        ("a: b\n  \t \tc\n", {"a": "b c"}),
        ("a\n\tb\n", "a b"),
    ],
)
def test_tabs_that_yaml_allows(text: str, expected: Any) -> None:
    assert load(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [("\ta: 1\n", 1, 1), ("a:\n\tb: 1\n", 2, 1), ("a:\n  b: 1\n \tc: 2\n", 3, 2), ("a: 1\n\t- 2\n", 2, 1)],
)
def test_tabs_that_indent_are_refused_where_they_stand(text: str, line: int, column: int) -> None:
    with pytest.raises(RefusalError) as caught:
        parse_yaml(text, place_of)
    assert str(caught.value.place) == f"build.yaml:{line}:{column}"
    assert caught.value.fix == "indent with spaces, not with tabs"


@pytest.mark.parametrize("text", ["-\t- 1\n", "-\ta: 1\n", "?\t- 1\n"])
def test_a_tab_does_not_place_a_nested_block(text: str) -> None:
    with pytest.raises(RefusalError) as caught:
        parse_yaml(text, place_of)
    assert caught.value.fix == ""


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["a", "b: ", "- ", "\t", " ", "\n", "\n  ", "'x'", '"y"', "[", "]", ",", "# c"]), max_size=14
    )
)
def test_where_libyaml_loads_a_text_this_loads_the_same(parts: list[str]) -> None:
    """libyaml allows fewer tabs, and reads those it allows as they are meant."""
    text = "".join(parts)
    try:
        expected = yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError:
        return
    assert load(text) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@,? \n", max_size=60))
def test_without_tabs_it_is_pyyaml(text: str) -> None:
    results = []
    for loader in (yaml.SafeLoader, TabLoader):
        try:
            results.append(yaml.compose(text, Loader=loader) is None or yaml.load(text, Loader=loader))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            results.append(str(error))
    assert results[0] == results[1]
