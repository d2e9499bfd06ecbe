"""`vamc check`: whether a build config is right, and what it comes to."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vamc_compiler.config import (
    BuildConfig,
    describe_obstacles,
    effective_settings,
    find_obstacles,
    flat_settings,
    load_config,
)
from vamc_runtime.console import print_json
from vamc_runtime.printable import printable


def run(options: argparse.Namespace) -> int:
    """Validate a config and show every effective setting; returns the exit status.

    A valid config that this version cannot build yet gets a note.

    Raises:
        UserError: the config has mistakes.
    """
    config = load_config(options.config, options.overrides)
    obstacles = find_obstacles(config)
    if options.json:
        document = {
            "settings": effective_settings(config),
            "sources": dict(config.setting_sources),
            "warnings": list(config.warnings),
            "buildable": not obstacles,
            "obstacles": [dataclasses.asdict(obstacle) for obstacle in obstacles],
        }
        print_json(document)
        return 0
    _print_settings(config, options.config)
    console = Console()
    console.print(Text(f"{options.config} is valid", style="green"))
    if obstacles:
        note = f"this version cannot build it yet:\n{describe_obstacles(obstacles)}"
        console.print(Text.assemble(("note: ", "yellow"), printable(note)), soft_wrap=True)
    for obstacle in obstacles:
        if obstacle.nearest:
            console.print(Text(f"nearest that it can build: {obstacle.nearest}"), soft_wrap=True)
    return 0


def _print_settings(config: BuildConfig, typed_path: Path) -> None:
    console = Console()
    table = Table(box=None, padding=(0, 2), header_style="bold")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", no_wrap=True)
    for key, value in flat_settings(config).items():
        source = config.setting_sources[key].replace(f"{typed_path}:", "line ")
        style = "dim" if source == "default" else ""
        table.add_row(Text(key, style), Text(printable(_show(value)), style), Text(printable(source), "dim"))
    console.print(table)
    for warning in config.warnings:
        console.print(Text.assemble(("warning: ", "yellow"), printable(warning)), soft_wrap=True)


def _show(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
