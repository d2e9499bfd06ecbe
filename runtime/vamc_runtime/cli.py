"""The `vamc` command: parses, calls one plain function, and turns errors into messages.

Compiler commands are imported when they run; on a machine with only the runtime they say what to install.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import importlib.util
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vamc_runtime.bench.numbers import parse_numbers
from vamc_runtime.console import OutputLostError, StandardStreams, say
from vamc_runtime.errors import EXIT_INTERNAL_ERROR, EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from vamc_runtime.printable import printable
from vamc_runtime.ranks.place import launched_rank
from vamc_runtime.resources import address_space_bytes, explain, find_lack, limit_of, load_numpy

EXIT_TERMINATED = 143
ONE_SIGNAL_SECONDS = 0.3
"""Signals this near to each other are one: nobody presses Ctrl-C twice in that time."""

RESERVE_BYTES = 8 << 20
"""Address space, not memory, that is kept to have enough for a message when it runs out."""

# What a command needs beyond the thin runtime; asked for by name, because some of it may be installed for others.
_COMPILER_NEEDS = {
    "compile": ("yaml", "torch", "tvm", "onnx", "onnxsim"),
    "verify": ("yaml", "torch", "tvm", "onnx", "onnxsim", "onnxruntime"),
    "check": ("yaml",),
}


def _compiler_command(name: str) -> Callable[[argparse.Namespace], int]:
    """A command of the compiler, or the hint how to install it."""

    def run(options: argparse.Namespace) -> int:
        missing = [module for module in _COMPILER_NEEDS[name] if importlib.util.find_spec(module) is None]
        if missing:
            raise UserError(
                f"`vamc {name}` needs the compiler, which is not installed (no module {missing[0]})",
                fix='pip install "vamc[compiler]"',
            )
        command = importlib.import_module(f"vamc_compiler.commands.{name}")
        status: int = command.run(options)
        return status

    return run


def _inspect(options: argparse.Namespace) -> int:
    from vamc_runtime.inspect import inspect_command

    return inspect_command(options)


def _run(options: argparse.Namespace) -> int:
    from vamc_runtime.run import run_command

    return run_command(options)


def _bench(options: argparse.Namespace) -> int:
    from vamc_runtime.bench.command import bench_command

    return bench_command(options)


def _text(argument: str) -> str:
    """Text of the command line as an argparse type: UTF-8, also where the locale says less (LC_ALL=C)."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(argument).decode()
        except UnicodeDecodeError as error:
            raise argparse.ArgumentTypeError(f"text in UTF-8 is expected, and {error}") from error
    return argument


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="build config (YAML)")
    _add_overrides(parser)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="replace a setting, for example --set frontend.model_kwargs.tp=4; may be repeated",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text for people")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--threads", type=int, metavar="N", help="threads of compiled code on each rank (default: one on every core)"
    )
    group.add_argument(
        "--huge-pages",
        choices=("auto", "on", "off"),
        help="where the weights lie: on copies them into huge pages, off maps the file (default: the build config's)",
    )
    group.add_argument(
        "--no-self-test", action="store_true", help="run on a CPU that the runstream was not verified on, untested"
    )


def _add_cases(parser: argparse.ArgumentParser) -> None:
    def numbers(option: str, text: str) -> None:
        parser.add_argument(option, type=parse_numbers, metavar="N[,N...]", help=text)

    numbers("--prefill", "prompts of these lengths (default 512); '' for none")
    numbers("--decode-batch", "decode steps of so many sequences (default 1); '' for none")
    numbers("--context", "tokens of each sequence in a decode step (default 128)")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "sampling", "What is not given comes from the checkpoint's generation_config.json."
    )
    group.add_argument("--max-new-tokens", type=int, metavar="N", default=128, help="longest output (default 128)")
    group.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest token every time")
    group.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest tokens; 0 for all")
    group.add_argument("--top-p", type=float, metavar="P", help="choose among tokens that make up this probability")
    group.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1 discourages repeated tokens")
    group.add_argument("--seed", type=int, metavar="S", default=0, help="same seed, same text (default 0)")
    group.add_argument(
        "--stop", action="append", default=[], type=_text, metavar="TEXT", help="end the output before this text"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after the end-of-text token")


class _ShowVersion(argparse.Action):
    """`--version`; argparse's own action would look the version up for every command."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        import importlib.metadata

        print(f"vamc {importlib.metadata.version('vamc')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="vamc", description="Compile a language model ahead of time, and run it.", allow_abbrev=False
    )
    parser.add_argument("--version", action=_ShowVersion, help="show program's version number and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(function=function, needs_much=name in ("compile", "verify"), journal=None)
        return added

    compile_ = command("compile", _compiler_command("compile"), "build the runstream that a config describes")
    _add_config(compile_)
    compile_.add_argument(
        "--trust-checkpoint-code", action="store_true", help="run a modeling file that the checkpoint carries"
    )
    compile_.add_argument(
        "--keep-intermediates", action="store_true", help="keep what every stage made, and weights for onnxruntime"
    )
    _add_json(compile_)

    check = command("check", _compiler_command("check"), "validate a config and show the settings in effect")
    _add_config(check)
    _add_json(check)

    verify = command(
        "verify", _compiler_command("verify"), "prove that a compiled model computes what the original computes"
    )
    verify.add_argument(
        "target", type=Path, metavar="CONFIG|RUNSTREAM", help="build config (compiled for the purpose) or runstream"
    )
    _add_overrides(verify)
    verify.add_argument("--report", type=Path, metavar="DIR", help="write index.html, report.json and junit.xml there")
    verify.add_argument(
        "--bisect", action="store_true", help="cut the smallest subgraph that is wrong out, with inputs and a script"
    )
    verify.add_argument(
        "--trust-checkpoint-code", action="store_true", help="run the checkpoint's own code, as reference too"
    )
    _add_json(verify)

    inspect = command("inspect", _inspect, "show what a runstream holds")
    inspect.add_argument("runstream", type=Path, metavar="RUNSTREAM", help="directory that `vamc compile` wrote")
    inspect.add_argument("--verify-hash", action="store_true", help="compare every file with its sha256")
    _add_json(inspect)

    run = command("run", _run, "generate text with a runstream")
    run.add_argument("runstream", type=Path, metavar="RUNSTREAM", help="directory that `vamc compile` wrote")
    run.add_argument(
        "--prompt",
        action="append",
        required=True,
        dest="prompts",
        type=_text,
        metavar="TEXT",
        help="may be repeated: one batch",
    )
    run.add_argument("--chat", action="store_true", help="treat each prompt as a user's message")
    run.add_argument("--system", type=_text, metavar="TEXT", help="system message, with --chat")
    _add_sampling(run)
    run.add_argument("--kv-cache-tokens", type=int, metavar="N", help="tokens the KV cache holds over all prompts")
    run.add_argument("--verify-hash", action="store_true", help="compare every file with its sha256 first")
    _add_machine(run)
    _add_json(run)

    bench = command("bench", _bench, "measure a runstream, and beside it what the machine can do at best")
    bench.add_argument("runstream", type=Path, metavar="RUNSTREAM", help="directory that `vamc compile` wrote")
    _add_cases(bench)
    bench.add_argument("--repeat", type=int, metavar="N", default=10, help="repetitions of each case (default 10)")
    bench.add_argument("--ops", action="store_true", help="also show the operations of each case")
    bench.add_argument("--csv", type=Path, metavar="FILE", help="write the results, one line for each case")
    _add_machine(bench)
    _add_json(bench)
    return parser


def _speaks() -> bool:
    """Whether this process may write messages: of several MPI ranks only the first."""
    launched = launched_rank()
    return launched is None or launched[0] == 0


def _report(message: str) -> None:
    if _speaks():
        say(printable(message))


class _Stop:
    """Ctrl-C and SIGTERM as exceptions, so that everything unwinds: a build removes what it had begun.

    Remembers that they came: raised within a callback of compiled code they arrive as another error.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        """Exit status of the signal that came; None while none has."""
        self._came = -ONE_SIGNAL_SECONDS
        signal.signal(signal.SIGTERM, self._terminated)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, in the background
            signal.signal(signal.SIGINT, self._interrupted)

    def _again(self) -> bool:
        """Whether this is the last signal once more: sent to the process and to its group, it arrives twice."""
        before, self._came = self._came, time.monotonic()
        return self._came - before < ONE_SIGNAL_SECONDS

    def _terminated(self, signum: int, frame: Any) -> None:
        if not self._again():
            self.status = EXIT_TERMINATED
            raise SystemExit(EXIT_TERMINATED)

    def _interrupted(self, signum: int, frame: Any) -> None:
        if not self._again():
            self.status = EXIT_INTERRUPTED
            raise KeyboardInterrupt


def _run_command(options: argparse.Namespace, streams: StandardStreams) -> int:
    """Do what was asked for; the exit status, whatever happens."""
    stop = _Stop()
    reserve = mmap.mmap(-1, RESERVE_BYTES)
    try:
        streams.check()
        if limit_of(resource.RLIMIT_AS) is not None:
            load_numpy()
        function: Callable[[argparse.Namespace], int] = options.function
        status = function(options)
        return status if stop.status is None else stop.status
    except OutputLostError:
        return 0  # `StandardStreams.end` has the status and the message
    except UserError as error:
        _report(f"vamc: error: {error}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        _report("vamc: interrupted")
        return EXIT_INTERRUPTED
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else EXIT_INTERNAL_ERROR
    except Exception as error:
        if stop.status is not None:
            _report("vamc: interrupted")
            return stop.status
        reserve.close()
        lack = explain(error) or find_lack([], address_space_bytes(os.getpid()))
        if lack is not None:
            _report(f"vamc: error: {lack}")
            return EXIT_USER_ERROR
        traceback.print_exc()
        _report("vamc: this is a bug in vamc; please report it with the lines above and your config")
        return EXIT_INTERNAL_ERROR


def _is_supervised(options: argparse.Namespace) -> bool:
    """Whether the command works in a child process: what needs much, and everything where address space is short."""
    return launched_rank() is None and (options.needs_much or limit_of(resource.RLIMIT_AS) is not None)


def _supervised(options: argparse.Namespace, streams: StandardStreams) -> int:
    from vamc_runtime.supervise import Journal, supervise

    def work(journal: Journal) -> int:
        options.journal = journal
        return streams.end(_run_command(options, streams))

    try:
        return supervise(work)
    except OSError as error:
        lack = explain(error)
        if lack is None:
            raise
        _report(f"vamc: error: {lack}")
        return EXIT_USER_ERROR


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 good, 2 the user's mistake, 70 our bug).

    Args:
        arguments: without them, this is the program: it reads its own, and may work in a child process.
    """
    with StandardStreams() as streams:
        try:
            options = build_parser().parse_args(arguments)
        except SystemExit as ended:  # --help, --version, or a mistake
            ended.code = streams.end(ended.code if isinstance(ended.code, int) else EXIT_USER_ERROR)
            raise
        except OutputLostError:
            return streams.end(0)
        if arguments is None and not options.needs_much:  # libraries of the compiler complain of what is left
            atexit.register(gc.freeze)  # else the interpreter searches all that is loaded for garbage as it ends: 20 ms
        if arguments is None and _is_supervised(options):
            return _supervised(options, streams)
        return streams.end(_run_command(options, streams))


if __name__ == "__main__":
    sys.exit(main())
