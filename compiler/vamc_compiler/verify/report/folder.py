"""`--report DIR`: the page, the data and the JUnit XML in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from vamc_compiler.verify.report.html import render_html
from vamc_compiler.verify.report.junit import render_junit
from vamc_compiler.verify.result import VerificationReport
from vamc_runtime.errors import UserError

SCHEMA_VERSION = 1
"""Of report.json."""
PAGE = "index.html"


def render_json(report: VerificationReport) -> str:
    """report.json: `VerificationReport.to_dict` and the version of its schema."""
    document = {"schema_version": SCHEMA_VERSION, **report.to_dict()}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_report(report: VerificationReport, folder: Path) -> Path:
    """Write index.html, report.json and junit.xml; an older report is replaced, other files stay.

    Every file is written beside its place and then renamed into it, the page last: what stops the writing leaves the
    older report whole.

    Args:
        report: what was found.
        folder: made where it does not exist.

    Returns:
        Path of index.html.

    Raises:
        UserError: the folder, or a file in it, cannot be written.
    """
    documents = {"report.json": render_json(report), "junit.xml": render_junit(report), PAGE: render_html(report)}
    _make_folder(folder, documents)
    written: dict[Path, Path] = {}
    try:
        for name, text in documents.items():
            beside = folder / f".{name}.writing-{os.getpid()}"
            written[beside] = folder / name
            # Tokens decoded from broken bytes can hold lone surrogates: \udc80 is how JSON spells those.
            beside.write_text(text, encoding="utf-8", errors="backslashreplace")
        for beside, place in written.items():
            beside.replace(place)
    except OSError as error:
        raise _not_writable(folder, error) from error
    finally:
        for beside in written:
            beside.unlink(missing_ok=True)
    return folder / PAGE


def _make_folder(folder: Path, names: Iterable[str]) -> None:
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file", expected="a folder for the report", fix="give --report another path")
        taken = next((folder / name for name in names if (folder / name).is_dir()), None)
        if taken is not None:
            raise UserError(
                f"{taken} is a folder",
                expected="a file of an older report, or nothing",
                fix="move it away, or give --report another path",
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"the report cannot be written to {folder}: {error.strerror or error}",
        expected="a folder that can be written, on a disk with space",
        fix="give --report another path",
    )
