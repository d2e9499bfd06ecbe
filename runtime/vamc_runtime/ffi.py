"""Importing tvm-ffi without torch.

apache-tvm-ffi 0.1.15 imports torch whenever it is installed (tvm_ffi/__init__.py, a guard against a symbol conflict on
Windows): 1 s and 200 MB for a process that never uses it. Hiding torch for the time of the import avoids that; drop
this file once tvm-ffi imports torch only on demand.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def tvm_ffi() -> Any:
    """The module `tvm_ffi`; torch stays as it is, imported or not."""
    if "tvm_ffi" in sys.modules:
        return sys.modules["tvm_ffi"]
    os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]  # None makes `import torch` raise ImportError
    try:
        import tvm_ffi as module
    finally:
        if hide:
            del sys.modules["torch"]
    return module
