"""How long idle worker threads look for work before they sleep, seen in the CPU time that they use."""

from __future__ import annotations

import time

import numpy as np

from documented.figures import Group, Samples, Settings, Unit
from documented.machine import aligned_copy, compile_library, in_turns, num_threads, target_of

SLEEP_S = 0.05
"""Far longer than they look."""
SPIN = "threads.spin"


def measure(settings: Settings) -> Samples:
    """CPU time that goes on after a call, per worker; nothing where there are no workers."""
    target, workers = target_of("host"), num_threads() - 1
    assert target is not None, "the host can run what it is"
    if not workers:
        return {}
    library = compile_library([], target)
    data = aligned_copy(np.zeros(1 << 20, np.uint8))

    def looking() -> float:
        library.read_seconds([data])
        begun = time.process_time()
        time.sleep(SLEEP_S)
        return (time.process_time() - begun) / workers

    return {SPIN: [in_turns(settings.repeats, looking)[0] for _ in range(settings.rounds)]}


UNITS: dict[str, Unit] = {SPIN: "ms"}
GROUP = Group(name="threads", units=UNITS, measure=measure)
