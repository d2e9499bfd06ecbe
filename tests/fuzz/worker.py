"""The process that runs cases: its death, silence or size is what the harness watches."""

from __future__ import annotations

import os
import resource
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz.target import case_generator, load_target
from vamc_runtime.errors import UserError


@dataclass(frozen=True)
class Ready:
    """`prepare` is done; growth counts from here."""


@dataclass(frozen=True)
class Began:
    """A case begins."""

    case: int


@dataclass(frozen=True)
class Ended:
    """A case is over; `problem` is the traceback of a fault, empty when the case was right."""

    case: int
    refused: bool
    problem: str


def work(connection: Connection, place: str, folder: str, seed: int, cases: range) -> None:
    """Run cases one after the other, telling the harness before and after each."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    log = os.open(Path(folder) / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    target = load_target(place)
    shared = Path(folder) / "shared"
    shared.mkdir()
    context = target.prepare(shared)
    connection.send(Ready())
    for case in cases:
        connection.send(Began(case))
        refused, problem = False, ""
        try:
            target.run(context, case_generator(target, seed, case))
        except UserError as error:
            refused = True
            if not error.found.strip():
                problem = "a UserError that says nothing"
        except BaseException:
            problem = traceback.format_exc()
        connection.send(Ended(case, refused, problem))
