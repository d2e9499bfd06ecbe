"""After `pip install vamc` alone, everything of the runtime imports and runs; the compiler says what it misses."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path

import pytest
from packaging_tools import REPOSITORY, Run, clean_environment

HEAVY = ("torch", "onnx", "onnxruntime", "onnxsim", "transformers", "tvm", "accelerate", "yaml", "mpi4py")

IMPORT_EVERYTHING = """\
import importlib, json, pkgutil, sys
import vamc_runtime
names = [module.name for module in pkgutil.walk_packages(vamc_runtime.__path__, "vamc_runtime.")]
for name in names:
    importlib.import_module(name)
for name in vamc_runtime.__all__:
    getattr(vamc_runtime, name)
print(json.dumps({"file": vamc_runtime.__file__, "imported": names, "loaded": sorted(sys.modules)}))
"""

GENERATE = """\
import json, sys
from vamc_runtime import LLM, SamplingParams
with LLM(sys.argv[1]) as llm:
    completions = llm.generate(json.loads(sys.argv[2]), SamplingParams(max_new_tokens=16))
maps = {line.split()[-1] for line in open("/proc/self/maps") if "libtvm" in line}
answer = {"tokens": [c.token_ids for c in completions], "text": [c.text for c in completions]}
print(json.dumps(answer | {"loaded": sorted(sys.modules), "libraries": sorted(maps)}))
"""


def test_the_environment_is_bare(bare_run: Run) -> None:
    # Without this, the tests below could pass because something else brought the packages in.
    code = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    absent = [name for name in HEAVY if name != "yaml"]  # huggingface_hub, which tokenizers asks for, brings yaml
    done = bare_run("python", "-c", code, *absent, "pytest", "json")
    assert done.stdout.strip() == "['json']", done.stderr


def test_every_runtime_module_imports_and_loads_nothing_heavy(bare_run: Run, bare_environment: Path) -> None:
    done = bare_run("python", "-c", IMPORT_EVERYTHING)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert Path(answer["file"]).is_relative_to(bare_environment)
    runtime = REPOSITORY / "runtime"
    expected = {
        ".".join(path.relative_to(runtime).with_suffix("").parts).removesuffix(".__init__")
        for path in (runtime / "vamc_runtime").rglob("*.py")
    }
    assert set(answer["imported"]) | {"vamc_runtime"} == expected
    assert [name for name in HEAVY if name in answer["loaded"]] == []


def test_help(bare_run: Run) -> None:
    done = bare_run("vamc", "--help")
    assert done.returncode == 0 and done.stderr == ""
    for command in ("compile", "check", "inspect", "run"):
        assert f"\n    {command} " in done.stdout


def test_version(bare_run: Run) -> None:
    assert bare_run("vamc", "--version").stdout == f"vamc {importlib.metadata.version('vamc')}\n"


@pytest.mark.parametrize("config", ["nowhere.yaml", "wrong.yaml", "right.yaml"])
def test_compile_says_what_to_install(bare_run: Run, tmp_path: Path, config: str) -> None:
    # PyYAML may be there without the extra (huggingface_hub asks for it): the config alone could be read.
    (tmp_path / "wrong.yaml").write_text("name: x\n")
    (tmp_path / "right.yaml").write_text((REPOSITORY / "build_in" / "build" / "hf_llama_fp16.yaml").read_text())
    done = bare_run("vamc", "compile", config)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert 'pip install "vamc[compiler]"' in done.stderr and "vamc compile" in done.stderr
    assert done.stdout == ""


def test_check_works_or_says_what_to_install(bare_run: Run) -> None:
    done = bare_run("vamc", "check", str(REPOSITORY / "build_in" / "build" / "hf_llama_fp16.yaml"))
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) != (done.returncode == 2 and 'pip install "vamc[compiler]"' in done.stderr)


@pytest.mark.parametrize("arguments", [("inspect", "nowhere"), ("run", "nowhere", "--prompt", "hello")])
def test_a_users_mistake_is_one_message(bare_run: Run, arguments: tuple[str, ...]) -> None:
    done = bare_run("vamc", *arguments)
    assert done.returncode == 2
    assert "nowhere is not a runstream" in done.stderr and "Traceback" not in done.stderr


def test_modeling_files_are_installed_as_data(bare_environment: Path) -> None:
    installed = bare_environment / "share" / "vamc" / "source_code"
    source = REPOSITORY / "source_code"
    assert (installed / "models.yaml").read_text() == (source / "models.yaml").read_text()
    assert {path.name for path in installed.glob("*.py")} == {path.name for path in source.glob("*.py")}


def test_bare_environment_runs_a_runstream(bare_python: Path, demo_runstream: Path) -> None:
    from vamc_runtime import LLM, SamplingParams

    prompts = ["The capital of France", "Once upon a time"]
    command = [str(bare_python), "-c", GENERATE, str(demo_runstream), json.dumps(prompts)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=clean_environment())
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [name for name in HEAVY if name in answer["loaded"]] == []
    # The runstream brings its own VM, the only part of TVM in the process besides tvm-ffi.
    libraries = [Path(library) for library in answer["libraries"]]
    assert [library for library in libraries if "tvm_ffi" not in library.parts] == [
        demo_runstream / "lib" / "libtvm_runtime.so"
    ]
    with LLM(demo_runstream) as llm:  # here, beside the compiler
        completions = llm.generate(prompts, SamplingParams(max_new_tokens=16))
    assert answer["tokens"] == [list(completion.token_ids) for completion in completions]
    assert answer["text"] == [completion.text for completion in completions]
    assert all(answer["text"])


def test_vamc_run_in_the_bare_environment(bare_run: Run, demo_runstream: Path) -> None:
    prompt = ["--prompt", "Once upon a time", "--max-new-tokens", "8", "--temperature", "0"]
    done = bare_run("vamc", "run", str(demo_runstream), *prompt)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "tok/s" in done.stdout
    assert bare_run("vamc", "inspect", str(demo_runstream)).returncode == 0
