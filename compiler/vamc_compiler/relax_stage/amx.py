"""Whether the compiling machine's own tile unit (AMX) is right: asked before a library for this machine uses it."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import tvm
from tvm import libinfo

from vamc_compiler.kernels.amx_products import amx_products
from vamc_compiler.link import find_linker, link_library
from vamc_runtime.amx_check import find_mistake
from vamc_runtime.machine import request_amx

# A CPU that has everything the products need; they are compiled for it whatever the machine is called.
_MCPU = "sapphirerapids"
_FEATURES = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16")


@functools.cache
def amx_works() -> bool:
    """Whether the tile unit can be used by this process and computes what it should; only for CPUs that list it."""
    if not request_amx():
        return False
    requires = (*_FEATURES, "amx_tile", "amx_int8", "amx_bf16")
    with tempfile.TemporaryDirectory(prefix="vamc-amx-") as folder:
        library = Path(folder) / "products.so"
        target = tvm.target.Target({"kind": "llvm", "mcpu": _MCPU, "num-cores": 1})
        executable = tvm.compile(tvm.IRModule(amx_products(frozenset(requires))), target=target)
        link_library(executable, library, find_linker())
        return not find_mistake(Path(libinfo.find_libtvm_runtime()), library, requires)
