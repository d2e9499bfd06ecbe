"""The tree of a YAML file to the objects of the schema. Goes on after a mistake, to report all of them."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from .convert import Surroundings, convert, resolve_path
from .fields import SHAPE_KEY, Setting, describe_kind, settings_of, split_annotated
from .problems import MAX_SHOWN_PROBLEMS, Place, Problem, RefusalError
from .schema import BuildConfig, ShapeConfig
from .shape import read_shape
from .suggest import did_you_mean, suggest_keys
from .tree import Entry, ScalarTree, SectionTree, describe
from .variables import expand

_FAILED = object()  # the value of a setting that was reported


@dataclass
class Binder:
    """Reads sections and keeps what it learned about each dotted key."""

    around: Surroundings
    problems: list[Problem] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    """Keys that were given."""
    values: dict[str, Any] = field(default_factory=dict)
    """Settings that are right, given or default; absent sections are None."""

    def config(self, root: SectionTree, source_path: Path) -> BuildConfig | None:
        """The whole config; None when there are problems."""
        made = self._section(BuildConfig, root, "", root.place, source_path=source_path)
        return made if isinstance(made, BuildConfig) else None

    def _section(self, section: type, tree: SectionTree, prefix: str, place: Place, **extra: Any) -> Any:
        settings = settings_of(section)
        expected_elsewhere = self._report_unknown(section, tree, prefix)
        arguments = dict(extra)
        for setting in settings:
            key = prefix + setting.name
            entry = tree.entries.get(setting.name)
            if entry is None and key in expected_elsewhere:
                arguments[setting.name] = _FAILED  # the misspelled key was reported already
            else:
                arguments[setting.name] = self._setting(setting, key, entry, place)
        if any(value is _FAILED for value in arguments.values()):
            return _FAILED
        return arguments[SHAPE_KEY] if section is ShapeConfig else section(**arguments)

    def _report_unknown(self, section: type, tree: SectionTree, prefix: str) -> set[str]:
        """Report the keys that do not exist; return those that were probably meant."""
        known = [setting.name for setting in settings_of(section)]
        meant: set[str] = set()
        given = {prefix + other for other in tree.entries}
        for name, entry in tree.entries.items():
            if name in known:
                continue
            shown = len(self.problems) < MAX_SHOWN_PROBLEMS
            suggestions = suggest_keys(prefix + name, given=given) if shown else []
            meant.update(suggestions)
            self.problems.append(
                Problem(
                    place=entry.place,
                    key=prefix + name,
                    found="unknown key",
                    expected=f"one of {', '.join(known)}",
                    fix=did_you_mean(suggestions),
                )
            )
        return meant

    def _setting(self, setting: Setting, key: str, entry: Entry | None, parent: Place) -> Any:
        if entry is not None:
            self.places[key] = entry.place
        if setting.is_section:
            return self._subsection(setting, key, entry, parent)
        value = self._default(setting, key, parent) if entry is None else self._given(setting, key, entry)
        return self._keep(key, value)

    def _subsection(self, setting: Setting, key: str, entry: Entry | None, parent: Place) -> Any:
        """A section; an absent or empty one has its defaults, or is None where that is allowed."""
        empty = entry is None or (isinstance(entry.tree, ScalarTree) and entry.tree.value is None)
        if empty and setting.optional:
            return self._keep(key, None)
        place = parent if entry is None else entry.place
        if entry is None or empty:
            tree = SectionTree(place=place)
        elif isinstance(entry.tree, SectionTree):
            tree = entry.tree
        else:
            refusal = RefusalError(
                entry.tree.place, f"found {describe(entry.tree)}", expected=describe_kind(setting.kind)
            )
            return self._refused(key, refusal)
        return self._section(setting.kind, tree, f"{key}.", place)

    def _default(self, setting: Setting, key: str, parent: Place) -> Any:
        if setting.default is MISSING:
            return self._refused(key, RefusalError(parent, "missing key", expected=describe_kind(setting.kind)))
        base, constraints = split_annotated(setting.kind)
        if base is Path and setting.default is not None:
            return resolve_path(str(setting.default), constraints, self.around, parent, from_shell=False)
        return setting.default

    def _given(self, setting: Setting, key: str, entry: Entry) -> Any:
        if setting.kind is ShapeConfig:
            shape, refusals = read_shape(entry.tree, self.around)
            for refusal in refusals:
                self._refused(key, refusal)
            return _FAILED if shape is None else shape
        try:
            nothing = isinstance(entry.tree, ScalarTree) and expand(entry.tree, self.around.environment).value is None
            return None if nothing and setting.optional else convert(setting.kind, entry.tree, self.around)
        except RefusalError as refusal:
            return self._refused(key, refusal)

    def _keep(self, key: str, value: Any) -> Any:
        if value is not _FAILED:
            self.values[key] = value
        return value

    def _refused(self, key: str, refusal: RefusalError) -> object:
        self.problems.append(refusal.as_problem(key))
        return _FAILED
