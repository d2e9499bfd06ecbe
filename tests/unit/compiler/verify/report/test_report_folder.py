"""`--report DIR`: whole files, or a message and the older ones."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from sample_reports import HOSTILE, failing_report, hostile_report, odd_report, passing_report

from vamc_compiler.verify.report import render_html, write_report
from vamc_runtime.errors import UserError

FILES = ["index.html", "junit.xml", "report.json"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_three_files(tmp_path: Path) -> None:
    report = failing_report()
    folder = tmp_path / "a" / "b"
    assert write_report(report, folder) == folder / "index.html"
    assert names(folder) == FILES
    assert (folder / "index.html").read_text(encoding="utf-8") == render_html(report)
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert next(iter(document)) == "schema_version" and document.pop("schema_version") == 1
    assert document == report.to_dict()
    assert ET.parse(folder / "junit.xml").getroot().get("failures") == "1"


def test_older_report_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    write_report(failing_report(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    write_report(passing_report(), tmp_path)
    assert names(tmp_path) == sorted([*FILES, "notes.txt"])
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["passed"] is True


def test_json_holds_every_value(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    write_report(odd_report(), tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    document = json.loads(text, parse_constant=refuse)
    assert document["pairs"][0]["metrics"]["kl_mean"] == "NaN" and document["pairs"][0]["kl"][-2] == "Infinity"
    write_report(hostile_report(), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["name"] == HOSTILE


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    place = tmp_path / "report"
    place.write_text("mine")
    for folder in (place, place / "below"):
        with pytest.raises(UserError, match="report"):
            write_report(passing_report(), folder)
    assert place.read_text() == "mine" and names(tmp_path) == ["report"]


def test_a_folder_in_the_way_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "index.html").mkdir()
    with pytest.raises(UserError, match=r"index\.html is a folder"):
        write_report(passing_report(), tmp_path)
    assert names(tmp_path) == ["index.html"]


def test_folder_that_cannot_be_made() -> None:
    with pytest.raises(UserError, match="cannot be written to /proc/report"):
        write_report(passing_report(), Path("/proc/report"))


def test_full_disk_leaves_the_older_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(failing_report(), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    write_text = Path.write_text

    def write_some(self: Path, text: str, **options: str) -> int:
        if "index.html" in self.name:
            write_text(self, text[:100], **options)
            raise OSError(28, "No space left on device")
        return write_text(self, text, **options)

    monkeypatch.setattr(Path, "write_text", write_some)
    with pytest.raises(UserError, match="No space left on device"):
        write_report(passing_report(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
