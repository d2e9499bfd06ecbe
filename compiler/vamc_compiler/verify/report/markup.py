"""Writing HTML: every piece of text goes through `text`, so that nothing in a report can become markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

from vamc_compiler.verify.report.figures import clean


def text(value: str) -> str:
    """Text as HTML, also within a quoted attribute."""
    return html.escape(clean(value), quote=True)


def tag(name: str, content: str = "", **attributes: str | float | bool | None) -> str:
    """An element.

    Args:
        name: of the element.
        content: HTML.
        attributes: plain text or numbers, escaped here; `_` stands for `-`, a trailing `_` is dropped (`class_`). True
            gives a bare attribute; False, None and the empty text give none.
    """
    parts = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not False and value is not None and value != "":
            shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            parts.append(f'{key}="{text(shown)}"')
    return f"<{' '.join(parts)}>{content}</{name}>"


def row(cells: Iterable[str]) -> str:
    """A table row of finished cells."""
    return f"<tr>{''.join(cells)}</tr>\n"


def table(head: Iterable[str], rows: Iterable[str], *, class_: str = "", caption: str = "") -> str:
    """A table.

    Args:
        head: titles as plain text; those that start with `#` are titles of figures, which stand to the right.
        rows: finished rows.
        class_: of the table.
        caption: plain text for those who cannot see what stands above the table.
    """
    titles = (
        tag("th", text(title.removeprefix("#")), scope="col", class_="n" if title.startswith("#") else "")
        for title in head
    )
    label = tag("caption", text(caption)) if caption else ""
    return tag("table", f"{label}<thead>{row(titles)}</thead><tbody>{''.join(rows)}</tbody>", class_=class_)


def described(pairs: Iterable[tuple[str, str]], class_: str = "") -> str:
    """A list of terms (plain text) and what they are (HTML)."""
    return tag(
        "dl", "".join(f"<div>{tag('dt', text(term))}{tag('dd', value)}</div>\n" for term, value in pairs), class_=class_
    )
