"""Stages are timed and reported; a failure names its stage, the user's mistakes pass through."""

from __future__ import annotations

from pathlib import Path

import pytest

from vamc_compiler.stages import SilentReporter, StageFailedError, Stages
from vamc_runtime.errors import UserError


class Recorder(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def begin(self, stage: str) -> None:
        self.calls.append(("begin", stage))

    def end(self, stage: str, seconds: float, note: str) -> None:
        assert seconds >= 0
        self.calls.append(("end", stage, note))


def test_stages_are_reported_in_order() -> None:
    recorder = Recorder()
    stages = Stages(recorder)
    for name in ("trace", "import"):
        with stages.stage(name) as note:
            note.text = f"{name} done"
    assert recorder.calls == [
        ("begin", "trace"),
        ("end", "trace", "trace done"),
        ("begin", "import"),
        ("end", "import", "import done"),
    ]
    assert list(stages.seconds) == ["trace", "import"]


@pytest.mark.parametrize("error", [UserError("wrong"), KeyboardInterrupt()])
def test_what_is_not_our_bug_passes_through(error: BaseException) -> None:
    recorder = Recorder()
    with pytest.raises(type(error)) as caught, Stages(recorder).stage("weights"):
        raise error
    assert caught.value is error
    assert recorder.calls == [("begin", "weights")]


@pytest.mark.parametrize(
    ("error", "found"),
    [(OSError(28, "full"), "is full"), (MemoryError(), "memory"), (OSError(24, "many"), "open files")],
)
def test_a_lack_names_the_stage_and_the_disk(error: Exception, found: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=found) as caught, Stages(Recorder(), tmp_path / "new").stage("weights"):
        raise error
    assert "in the stage 'weights'" in caught.value.found and caught.value.__cause__ is error
    assert str(tmp_path) in caught.value.found or not isinstance(error, OSError) or error.errno != 28


def test_our_bug_names_its_stage() -> None:
    stages, cause = Stages(SilentReporter()), ValueError("deep down")
    message = "the stage 'import' failed: ValueError: deep down"
    with pytest.raises(StageFailedError, match=message) as caught, stages.stage("import"):
        raise cause
    assert caught.value.__cause__ is cause
    assert stages.seconds == {}
