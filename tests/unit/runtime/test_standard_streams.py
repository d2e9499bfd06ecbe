"""Standard output and error that are full, closed, not UTF-8 or without a reader: nothing is lost without a word."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vamc_runtime.console import print_json

FULL = Path("/dev/full")
COMMAND = """
import sys
from vamc_runtime.console import StandardStreams, print_json, print_path, say
with StandardStreams() as streams:
    def work():
        exec(sys.argv[1])
        return 0
    try:
        streams.check()
        status = work()
    except Exception as error:
        status = 0 if type(error).__name__ == "OutputLostError" else 70
    status = streams.end(status)
sys.exit(status)
"""


def shell(redirection: str, code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `code` as a command would, its streams redirected by a shell."""
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {redirection}', "bash", sys.executable, *options, "-c", COMMAND, code],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("options", [(), ("-u",)])
@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        (">/dev/full", "standard output cannot be written: No space left on device"),
        (">&-", "standard output is closed"),
        (">&- <&-", "standard output is closed"),
    ],
)
def test_a_lost_result_is_an_error(redirection: str, message: str, options: tuple[str, ...]) -> None:
    done = shell(redirection, "print('result'); print('more', flush=True)", *options)
    assert done.returncode == 2
    errors = done.stderr.decode()
    assert errors.count("vamc: error:") == 1 and message in errors
    assert "Traceback" not in errors and "Exception ignored" not in errors


def test_a_closed_output_is_refused_before_the_work() -> None:
    done = shell(">&-", "say('worked')")
    assert done.returncode == 2 and b"worked" not in done.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&- <&-"])
def test_without_standard_error_the_result_still_comes(redirection: str) -> None:
    done = shell(redirection, "say('lost' * 10000); print('result')")
    assert done.returncode == 0
    assert (done.stdout, done.stderr) == (b"result\n", b"")


@pytest.mark.parametrize("redirection", [">/dev/full 2>/dev/full", ">&- 2>&-"])
def test_without_both_the_status_says_it(redirection: str) -> None:
    assert shell(redirection, "print('result')").returncode == 2


def test_closed_streams_are_not_taken_by_files() -> None:
    """The next file that is opened must not become standard error: messages would be written into it."""
    code = "import os; taken = os.open('/dev/null', os.O_RDONLY); say('message'); print(taken)"
    done = shell("2>&- <&-", code)
    assert done.returncode == 0 and int(done.stdout) > 2


def test_a_reader_that_went_away() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "for number in range(100000): print(number)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(timeout=60), errors) == (141, b"")


def test_a_failed_command_stays_failed_when_its_reader_went_away() -> None:
    read, write = os.pipe()
    os.close(read)
    code = COMMAND.replace("return 0", "return 1")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.run([sys.executable, "-c", code, "print('x')"], stdout=write, check=False, env=buffered)
    os.close(write)
    assert process.returncode == 1


def test_an_output_that_is_non_blocking() -> None:
    """Who shares a pipe or terminal may have made it so; a full pipe then is no error."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    code = "for number in range(50000): print(number)"
    process = subprocess.Popen([sys.executable, "-c", COMMAND, code], stdout=write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        lines = pipe.read().split()
    assert process.wait(timeout=60) == 0
    assert lines == [str(number).encode() for number in range(50000)]


TEXT = "caf\\u00e9 \\u4f60\\u597d \\U0001f680 \\udc80 x"
WHOLE = "café 你好 🚀 \udc80 x"


@pytest.mark.parametrize(
    "encoding",
    ["ascii", "ascii:strict", "latin-1", "cp1252", "gbk", "gb18030", "shift_jis", "shift_jis_2004", "utf-8", "utf-16"],
)
def test_text_comes_out_whole_in_every_encoding(encoding: str) -> None:
    done = shell("", f"print('{TEXT}')", PYTHONIOENCODING=encoding)
    name = encoding.partition(":")[0]
    assert done.returncode == 0
    text = done.stdout.decode(name)
    for character in "é你好🚀\udc80":
        known = character.encode(name, errors="ignore").decode(name) == character
        escaped = character.encode("ascii", "backslashreplace").decode()
        assert (character in text) if known else (escaped in text or "?" in text)
    lacks = any(not character.encode(name, errors="ignore") for character in WHOLE if character != "\udc80")
    assert (b"vamc: note: standard output is" in done.stderr) == lacks


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "shift_jis", "utf-8"])
def test_json_comes_out_whole_in_every_encoding(encoding: str) -> None:
    done = shell("", f"print_json({{'text': '{TEXT}', 'path': '\\x9b\\x7f'}})", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode(encoding)) == {"text": WHOLE, "path": "\x9b\x7f"}
    assert not any(byte < 0x20 and byte != 0x0A for byte in done.stdout)
    assert b"\x7f" not in done.stdout and "\x9b".encode() not in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_path_is_written_as_the_system_knows_it(encoding: str) -> None:
    done = shell("", "import os; print_path(os.fsdecode(b'/tmp/\\xff\\xe4\\xbd\\xa0'))", PYTHONIOENCODING=encoding)
    assert done.stdout == b"/tmp/\xff\xe4\xbd\xa0\n"


def test_streams_of_others_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A notebook or a test has put its own in place."""
    from vamc_runtime.console import StandardStreams

    before = sys.stdout
    with StandardStreams() as streams:
        assert sys.stdout is before
        print_json({"x": "é"})
        assert streams.end(0) == 0
    assert json.loads(capsys.readouterr().out) == {"x": "é"}


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("run", "--help"), ("nonsense",), ("check", "nowhere.yaml")]
)
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_the_command_line(arguments: tuple[str, ...], redirection: str) -> None:
    vamc = Path(sys.executable).with_name("vamc")
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {redirection}', "bash", vamc, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert "error" in done.stderr


def test_dev_full_is_what_it_seems() -> None:
    """The tests above rely on it."""
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), FULL.open("wb", buffering=0) as file:
        file.write(b"x")
