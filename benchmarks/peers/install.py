"""Make the environment of each peer under `.envs/`: `python benchmarks/peers/install.py [NAME ...]`.

Each peer lives in a virtual environment of its own, because their requirements on transformers and onnx disagree.
What needs a compiler (llama.cpp) is built from its source package for the CPU of this machine. An environment that is
complete is left alone; `--again` makes it anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENTS = Path(__file__).resolve().parent / ".envs"
TORCH = "torch==2.13.0"
"""Converters read checkpoints with it. Other versions come from the index with gigabytes of CUDA packages."""
LLAMA_CPP_PYTHON = "llama-cpp-python==0.3.36"
LLAMA_CPP_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",  # -march=native: VNNI and bf16 where the CPU has them
    "-DBUILD_SHARED_LIBS=ON",  # the Python bindings load them
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
LLAMA_CPP_TARGETS = ("llama", "llama-bench")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What to install for one peer."""

    packages: tuple[str, ...]
    """Requirements, installed after torch."""
    needs_torch: bool = True
    """Whether its converter reads checkpoints with torch."""
    unwanted: tuple[str, ...] = ()
    """Packages to remove in the end, which others require and nothing here uses."""
    builds_llama_cpp: bool = False
    """Whether llama.cpp is built into it from the source package."""


SPECIFICATIONS = {
    "ctranslate2": Environment(packages=("ctranslate2==4.8.*", "transformers>=4.56", "sentencepiece", "safetensors")),
    "openvino": Environment(
        packages=("openvino==2026.4.*", "optimum-intel[openvino]==2.2.*"),
        unwanted=("torchvision",),  # builds for CUDA come with the index: they do not load beside torch for the CPU
    ),
    "ort_genai": Environment(packages=("onnxruntime-genai==0.18.*", "onnxruntime", "onnx", "onnx-ir", "transformers")),
    "llama_cpp": Environment(
        packages=(
            *("transformers", "sentencepiece", "safetensors", "numpy", "pyyaml", "requests", "tqdm"),  # its converter
            *("diskcache", "jinja2", "typing-extensions"),  # its Python bindings
        ),
        builds_llama_cpp=True,
    ),
    "plot": Environment(packages=("matplotlib>=3.9",), needs_torch=False),
}


def run(*command: str | Path, log: Path) -> None:
    """Run a command at low priority, its output in a file.

    Raises:
        SystemExit: it failed; the message ends with the last lines of the output.
    """
    with log.open("a") as output:
        code = subprocess.run(["nice", "-n", "19", *map(str, command)], stdout=output, stderr=output).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{' '.join(map(str, command))}\nended with {code}; the whole output is in {log}\n{tail}")


def build_llama_cpp(folder: Path, jobs: int, log: Path) -> None:
    """Download the source package of the bindings into `folder/src` and build the llama.cpp that it carries."""
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f"llama.cpp needs {' and '.join(missing)}: apt-get install cmake g++")
    source = folder / "src"
    name = LLAMA_CPP_PYTHON.partition("==")[0]
    pip = (folder / "bin" / "python", "-m", "pip")
    run(*pip, "download", "--no-deps", "--no-binary", name, "--dest", source, LLAMA_CPP_PYTHON, log=log)
    with tarfile.open(next(source.glob("*.tar.gz"))) as package:
        package.extractall(source, filter="data")
    (package_folder,) = (path for path in source.iterdir() if path.is_dir())
    package_folder.rename(source / "bindings")
    tree, build = source / "bindings" / "vendor" / "llama.cpp", source / "build"
    (site_packages,) = (folder / "lib").glob("python*/site-packages")
    (site_packages / "llama_cpp.pth").write_text(str(source / "bindings"))  # `import llama_cpp` finds them
    run("cmake", "-S", tree, "-B", build, *LLAMA_CPP_OPTIONS, log=log)
    run("cmake", "--build", build, "--parallel", str(jobs), "--target", *LLAMA_CPP_TARGETS, log=log)


def install(name: str, again: bool, jobs: int) -> None:
    """Make one environment; a file `.installed` in it says that it is complete."""
    folder, specification = ENVIRONMENTS / name, SPECIFICATIONS[name]
    stamp, log = folder / ".installed", ENVIRONMENTS / f"{name}.log"
    if stamp.is_file() and not again:
        print(f"{name}: installed already")
        return
    print(f"{name}: installing, output in {log}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    run(sys.executable, "-m", "venv", folder, log=log)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check")
    if specification.needs_torch:
        run(*pip, TORCH, log=log)
        # The pin is repeated so that no package of the second step replaces torch.
        run(*pip, TORCH, *specification.packages, log=log)
    else:
        run(*pip, *specification.packages, log=log)
    if specification.unwanted:
        run(*pip[:3], "uninstall", "--yes", *specification.unwanted, log=log)
    if specification.builds_llama_cpp:
        build_llama_cpp(folder, jobs, log)
    stamp.touch()
    print(f"{name}: done", flush=True)


def main() -> None:
    """Parse and install."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SPECIFICATIONS)}; all when not given")
    parser.add_argument("--again", action="store_true", help="remove and make anew what is there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compiler processes for llama.cpp")
    options = parser.parse_args()
    unknown = set(options.names) - set(SPECIFICATIONS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SPECIFICATIONS)}")
    failed = []
    for name in options.names or SPECIFICATIONS:
        try:
            install(name, options.again, options.jobs)
        except SystemExit as error:  # the other peers are still worth having
            print(f"{name}: failed\n{error}", file=sys.stderr, flush=True)
            failed.append(name)
    if failed:
        raise SystemExit(f"not installed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
