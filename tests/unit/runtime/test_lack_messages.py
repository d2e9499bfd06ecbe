"""What ran out is found in errors of every class, and said with the limit and what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vamc_runtime.errors import UserError
from vamc_runtime.resources import address_space_bytes, explain, find_lack, require_space


def system(number: int, *names: str) -> OSError:
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (MemoryError(), "memory ran out"),
        (system(errno.ENOMEM), "memory ran out"),
        (RuntimeError("std::bad_alloc"), "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), "memory ran out"),
        (ImportError("libx.so: failed to map segment from shared object"), "memory ran out"),
        (ImportError("libx.so: cannot open shared object file: Too many open files"), "too many open files"),
        (RuntimeError("can't start new thread"), "no further thread or process"),
        (system(errno.EAGAIN), "no further thread or process"),
        (system(errno.EMFILE), "too many open files"),
        (system(errno.ENFILE), "too many open files"),
        (system(errno.ENOSPC), "is full"),
        (system(errno.EDQUOT), "quota"),
        (system(errno.EFBIG, "/x/model.so"), "/x/model.so would become larger"),
        (system(errno.EROFS, "/x/y"), "/x/y: Read-only file system"),
        (system(errno.EACCES, "/x/y"), "/x/y: Permission denied"),
        (system(errno.EIO, "/x/y"), "/x/y: Input/output error"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "no folder for temporary files"),
        (RuntimeError("rank 1 failed: MemoryError: "), "memory ran out"),
    ],
)
def test_every_class_of_error(error: Exception, found: str) -> None:
    message = explain(error, stage="weights")
    assert message is not None and found in message.found and message.fix
    outer = RuntimeError("a pass failed")
    outer.__cause__ = error
    wrapped = explain(outer)
    assert wrapped is not None and found in wrapped.found


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        KeyError("memory"),
        system(errno.ENOENT, "/x"),
        system(errno.EPIPE),
        UserError("No space left on device"),
        KeyboardInterrupt("out of memory"),
    ],
)
def test_other_errors_stay_what_they_are(error: BaseException) -> None:
    assert explain(error) is None


def test_a_users_mistake_is_not_hidden_by_its_cause() -> None:
    error = UserError("the report cannot be written")
    error.__cause__ = system(errno.ENOSPC)
    assert explain(error) is None


def test_how_much_was_asked_for() -> None:
    with pytest.raises(MemoryError) as caught:
        np.ones(1 << 60, np.uint8)
    message = explain(caught.value, stage="weights")
    assert message is not None and "1.00 EiB" in message.found and "'weights'" in message.found


def test_the_disk_is_named(tmp_path: Path) -> None:
    """Of a copy, the target's; a file that does not exist yet lies in the folder above."""
    message = explain(OSError(errno.ENOSPC, "full", "/etc/passwd", None, str(tmp_path / "new" / "file")))
    assert message is not None and f"the disk that holds {tmp_path}" in message.found and "free" in message.found
    without_name = explain(system(errno.ENOSPC), folders=[tmp_path])
    assert without_name is not None and str(tmp_path) in without_name.found


def test_space_is_asked_for_before_the_work(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet", 1, "this needs")
    with pytest.raises(UserError, match=f"this needs 1048576.00 GiB, and {tmp_path} has .* free"):
        require_space(tmp_path / "not" / "yet", 1 << 50, "this needs")


def test_nothing_lacks_here(tmp_path: Path) -> None:
    assert find_lack([tmp_path], 0) is None
    assert not list(tmp_path.iterdir())
    assert 0 < address_space_bytes(os.getpid()) < 1 << 50
    assert address_space_bytes(0) == 0


@pytest.mark.parametrize(
    ("limit", "peak", "found"),
    [
        ("RLIMIT_FSIZE, (1 << 19, 1 << 19)", 0, "ulimit -f"),
        ("RLIMIT_AS, (1 << 30, 1 << 30)", 900 << 20, "ulimit -v"),
        ("RLIMIT_AS, (1 << 40, 1 << 40)", 900 << 20, "None"),
        ("RLIMIT_CORE, (0, 0)", 0, "None"),
    ],
)
def test_lacks_are_found_by_trying(limit: str, peak: int, found: str, tmp_path: Path) -> None:
    code = (
        "import resource, pathlib, sys; from vamc_runtime.resources import find_lack;"
        f"resource.setrlimit(resource.{limit}); print(find_lack([pathlib.Path(sys.argv[1])], {peak}))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert found in done.stdout


def test_a_file_that_reached_the_limit_is_evidence(tmp_path: Path) -> None:
    code = (
        "import resource, pathlib, sys; from vamc_runtime.resources import find_lack;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20));"
        "folder = pathlib.Path(sys.argv[1]); print(find_lack([folder], 0));"
        "(folder / 'cut.o').write_bytes(bytes(2 << 20)); print(find_lack([folder], 0))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("None\n") and "ulimit -f" in done.stdout
