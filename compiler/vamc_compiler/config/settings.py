"""A config as plain data: for the manifest and for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from .fields import free_keys, settings_of
from .problems import Place
from .schema import BuildConfig

DEFAULT = "default"


def effective_settings(config: BuildConfig) -> dict[str, object]:
    """Every setting with its effective value, defaults included, nested as in the YAML.

    It holds only what JSON has (paths are texts), and loads again as a build config of the same meaning.
    """
    return _plain_section(config)


def flat_settings(config: BuildConfig) -> dict[str, object]:
    """`effective_settings` by dotted key; the keys are those of `config.setting_sources`."""
    return dict(_flat(effective_settings(config), ""))


def setting_sources(config: BuildConfig, places: Mapping[str, Place]) -> dict[str, str]:
    """Where the value of each setting is from, by dotted key."""
    return {key: str(places.get(key, DEFAULT)) for key in flat_settings(config)}


def _plain_section(section: Any) -> dict[str, object]:
    return {item.name: _plain(getattr(section, item.name)) for item in settings_of(section.__class__)}


def _plain(value: Any) -> object:
    if is_dataclass(value):
        return _plain_section(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _flat(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in section.items():
        key = prefix + name
        if isinstance(value, dict) and key not in free_keys():
            yield from _flat(value, f"{key}.")
        else:
            yield key, value
