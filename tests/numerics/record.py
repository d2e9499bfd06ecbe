"""The figures of docs/numerics.md, as the tests measured them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass
class NumericsRecord:
    """Rows of measured figures, grouped by what was compared."""

    rows: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, section: str, case: str, figures: dict[str, str]) -> None:
        """Note the figures of one case, each with its bound in its name."""
        self.rows[section, case] = [f"{name}: {value}" for name, value in figures.items()]

    def write(self, path: Path) -> None:
        """Replace the part of the document between the marks."""
        lines: list[str] = []
        for section in dict.fromkeys(section for section, _ in self.rows):
            cases = {case: row for (s, case), row in self.rows.items() if s == section}
            names = [figure.partition(": ")[0] for figure in next(iter(cases.values()))]
            lines += ["", f"### {section}", "", f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
            lines += [f"| {case} | {' | '.join(f.partition(': ')[2] for f in row)} |" for case, row in cases.items()]
        text = path.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        tail = rest.split(END)[1]
        path.write_text(f"{head}{BEGIN}\n" + "\n".join(lines).lstrip("\n") + f"\n\n{END}{tail}", encoding="utf-8")
