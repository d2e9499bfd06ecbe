"""The process that runs one contestant, in the contestant's environment; started by `workers.py`.

Requests come as JSON lines on standard input, answers go as JSON lines to standard output: `{"ok": ...}` or
`{"error": text}`. Between requests it waits in a read. What libraries print goes to standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from contestants.interface import Contestant
from entries import ENTRIES, make


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far, pages of mapped files included."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def answer(contestant: Contestant, request: dict[str, Any]) -> Any:
    """Do what a request says."""
    match request["do"]:
        case "prepare":
            return contestant.prepare(Path(request["checkpoint"]), Path(request["folder"]))
        case "open":
            return contestant.open(Path(request["folder"]), request["num_threads"])
        case "prefill":
            return contestant.prefill(request["tokens"])
        case "decode":
            return contestant.decode(request["prompts"], request["num_steps"])
        case "memory":
            return peak_memory_bytes()
    raise ValueError(f"unknown request {request['do']!r}")


def end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, even while it is stopped and cannot see its input close."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def main() -> None:
    """Serve requests until standard input ends. Arguments: the contestant's name, its cores with commas."""
    name, cores = sys.argv[1:]
    end_with_parent()
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})  # before any library counts cores
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    contestant = make(ENTRIES[name])
    for line in sys.stdin:
        try:
            reply = {"ok": answer(contestant, json.loads(line))}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
