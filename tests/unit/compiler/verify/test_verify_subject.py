"""What is verified: gathered from a runstream on disk, refused where it does not fit together; scratch folders."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
import torch
from damaged_files import copied, record_again
from safetensors.torch import load_file, save_file
from tiny_builds import assert_same_runs, build_of, steps_of

from vamc_compiler.graph import RankGraph
from vamc_compiler.stages import SilentReporter, Stages
from vamc_compiler.verify import subject as subject_module
from vamc_compiler.verify.build import on_one_rank, scratch_folder
from vamc_compiler.verify.subject import Subject, config_of, open_subject
from vamc_runtime.errors import UserError
from vamc_runtime.manifest import read_manifest


@pytest.fixture
def stored(compiled: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A runstream that a test may damage; tracing gives what it gave before."""
    monkeypatch.setattr(subject_module, "make_rank_graphs", lambda *arguments, **options: list(compiled.graphs))
    return copied(compiled, tmp_path)


def opened(subject: Subject, overrides: Sequence[str] = ()) -> Subject:
    with scratch_folder(subject.runstream.parent, Stages(SilentReporter())) as scratch:
        return open_subject(
            subject.runstream, overrides, scratch, Stages(SilentReporter()), trust_checkpoint_code=False
        )


def test_a_runstream_on_disk_is_the_build(stored: Subject) -> None:
    found = opened(stored)
    assert (found.manifest, found.parameters, found.num_ranks) == (stored.manifest, stored.parameters, 1)
    assert found.precision == stored.precision
    ours, theirs = build_of(found), build_of(stored)
    assert ours.plan == theirs.plan
    run = theirs.graph_stage().run(steps_of(), theirs.plan.taps)
    assert_same_runs(ours.graph_stage().run(steps_of(), ours.plan.taps), run, 0)


def test_the_stored_graph_is_what_is_verified(stored: Subject) -> None:
    """Not the one that is traced again."""
    path = stored.runstream / "rank_0" / "onnx" / "model.onnx"
    if not path.exists():
        (path,) = stored.runstream.rglob("model.onnx")
    model = onnx.load(path, load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "SiluMul")
    node.input[:] = [node.input[1], node.input[0]]
    onnx.save(model, path)
    record_again(stored.runstream, path.relative_to(stored.runstream).as_posix())
    (graph,) = opened(stored).graphs
    (found,), (before,) = (
        [node.input for node in model.graph.node if node.op_type == "SiluMul"][:1]
        for model in (graph.model(), stored.graphs[0].model())
    )
    assert list(found) == list(before)[::-1]
    assert graph.traced == stored.graphs[0].traced


def test_without_onnx(stored: Subject) -> None:
    (path,) = stored.runstream.rglob("model.onnx")
    shutil.rmtree(path.parent)
    name = str(path.relative_to(stored.runstream))
    with pytest.raises(UserError, match=f"{name} is missing") as caught:
        opened(stored)
    assert "compile it again" in caught.value.fix
    manifest = read_manifest(stored.runstream)
    files = {key: record for key, record in manifest.files.items() if key != name}
    text = dataclasses.replace(manifest, files=files).to_json()
    (stored.runstream / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="no ONNX graph of rank 0") as caught:
        opened(stored)
    assert name in caught.value.found


@pytest.mark.parametrize("content", [b"", b"this is no protobuf", b"\xff" * 100])
def test_a_damaged_graph(stored: Subject, content: bytes) -> None:
    (path,) = stored.runstream.rglob("model.onnx")
    before = path.read_bytes()
    path.write_bytes(content.ljust(len(before), b"\n"))
    with pytest.raises(UserError, match=r"model\.onnx is damaged"):
        opened(stored)
    path.write_bytes(content)
    record_again(stored.runstream, path.relative_to(stored.runstream).as_posix())
    with pytest.raises(UserError, match=r"model\.onnx"):
        opened(stored)


def other_checkpoint(subject: Subject, directory: Path) -> Path:
    """One weight is another."""
    shutil.copytree(subject.checkpoint.directory, directory)
    state = load_file(directory / "model.safetensors")
    state["model.norm.weight"][3] += torch.tensor(0.5, dtype=torch.bfloat16)
    save_file(state, directory / "model.safetensors")
    return directory


def test_another_checkpoint(stored: Subject, tmp_path: Path) -> None:
    directory = other_checkpoint(stored, tmp_path / "other")
    with pytest.raises(UserError, match="is not the checkpoint") as caught:
        opened(stored, [f"frontend.checkpoint={directory}"])
    assert stored.manifest.checkpoint.digest[:16] in caught.value.found
    assert str(directory) in caught.value.found and "frontend.checkpoint" in str(caught.value.fix)


def test_the_same_checkpoint_elsewhere(stored: Subject, tmp_path: Path) -> None:
    shutil.copytree(stored.checkpoint.directory, tmp_path / "moved")
    found = opened(stored, [f"frontend.checkpoint={tmp_path / 'moved'}"])
    assert found.checkpoint.directory == tmp_path / "moved"


def test_a_checkpoint_that_is_gone(stored: Subject, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        opened(stored, [f"frontend.checkpoint={tmp_path / 'nowhere'}"])


def test_no_runstream(stored: Subject, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "nothing"):
        with pytest.raises(UserError, match=path.name):
            opened(dataclasses.replace(stored, runstream=path))


def test_settings_of_another_version(stored: Subject, tmp_path: Path) -> None:
    manifest = read_manifest(stored.runstream)
    manifest.settings["verify"]["budgets"] = 1
    (stored.runstream / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    with pytest.raises(UserError, match=r"the settings in .*manifest\.json do not load") as caught:
        opened(stored)
    assert "budgets" in caught.value.found


def test_overrides_are_checked(stored: Subject, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--set verify\.tokens=many") as caught:
        config_of(stored.runstream, stored.manifest, ["verify.tokens=many"], tmp_path)
    assert "again" not in caught.value.fix, "the runstream is not at fault"
    assert config_of(stored.runstream, stored.manifest, ["verify.tokens=5"], tmp_path).verify.tokens == 5


def test_parameters_on_one_rank(compiled: Subject) -> None:
    found, expected = compiled.single_parameters(compiled.precision), compiled.parameters[0]
    assert [(spec.name, spec.shape, spec.dtype) for spec in found] == [(s.name, s.shape, s.dtype) for s in expected]


def test_graphs_of_every_rank(compiled: Subject) -> None:
    two = dataclasses.replace(compiled, graphs=(*compiled.graphs, dataclasses.replace(compiled.graphs[0], rank=1)))
    assert two.num_ranks == 2 and len(two.parameters) == 2
    assert isinstance(two.graphs[1], RankGraph)


def test_scratch_lies_beside_the_workspace_and_goes(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "deep" / "workspace", Stages(SilentReporter())) as folder:
        assert folder.parent == tmp_path and folder.is_dir()
        (folder / "file").write_text("x")
    assert not list(tmp_path.iterdir())


def test_scratch_goes_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path, Stages(SilentReporter())):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_scratch_where_the_workspace_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == tmp_path / "temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with scratch_folder(tmp_path / "workspace", Stages(SilentReporter())) as folder:
        assert folder.parent == tmp_path / "temporary"


def test_no_room_for_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(UserError, match="No space left") as caught, scratch_folder(tmp_path, Stages(SilentReporter())):
        pytest.fail("opened")
    assert "TMPDIR" in str(caught.value)


def test_on_one_rank(compiled: Subject) -> None:
    kwargs = dataclasses.replace(compiled.config.frontend.model_kwargs, tp=2)
    two = dataclasses.replace(
        compiled.config, frontend=dataclasses.replace(compiled.config.frontend, model_kwargs=kwargs), warnings=("w",)
    )
    assert on_one_rank(two) == dataclasses.replace(compiled.config, warnings=())
