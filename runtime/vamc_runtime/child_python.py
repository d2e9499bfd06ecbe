"""Python processes of our own that import nothing from where the user stands.

`python -m` and `python -c` put the current directory first on sys.path, so that a file json.py of a folder with
downloaded models would run in them. `python -P` and PYTHONSAFEPATH prevent that, from Python 3.11 on.
"""

from __future__ import annotations

import os
import sys

# Nothing but built-in modules is imported before the entry that means the current directory is gone.
WITHOUT_CURRENT_DIRECTORY = "import sys; sys.path[:] = [folder for folder in sys.path if folder]; "
"""Comes before the code of `python -c`."""


def python_command(code: str) -> list[str]:
    """The command that runs `code`; arguments may follow, and arrive in sys.argv[1:]."""
    return [sys.executable, "-c", WITHOUT_CURRENT_DIRECTORY + code]


def python_environment(**added: str) -> dict[str, str]:
    """This process's environment for such a command.

    PYTHONPATH stays without its empty entries (`PYTHONPATH=$UNSET:/my/modules`): they mean the current directory, and
    become an absolute path before any code runs.
    """
    environment = {**os.environ, **added}
    folders = [folder for folder in environment.pop("PYTHONPATH", "").split(os.pathsep) if folder]
    return {**environment, "PYTHONPATH": os.pathsep.join(folders)} if folders else environment
