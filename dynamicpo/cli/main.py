"""The entry point of the command line: runs a command and turns errors into exit codes."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from dynamicpo.cli.commands.table import COMMANDS, SHARED_COMMANDS, Command
from dynamicpo.cli.flags import make_parser
from dynamicpo.cli.output import as_json
from dynamicpo.cli.terminal import PrintableFormatter, prepare_streams, printable
from dynamicpo.core.errors import (
    ConfigError,
    DynamicPOError,
    RunFailedError,
    ToldError,
    unknown_name,
)
from dynamicpo.core.messages import limited
from dynamicpo.distributed.group import is_main, joined_group

# Exit codes, beside those of the errors' classes; scripts and workflows go by them. A signal that
# ends a command gives 128 and its number, as shells have it.
_USAGE_ERROR = 2
_CHECK_FAILED = 3
_INTERRUPTED = 128 + signal.SIGINT


class _StoppedError(BaseException):
    """A signal that ends the process, as an exception: what is unfinished is then cleaned up."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments without the program's name (default: the process's).

    Returns:
        The exit code: 0 done, 2 bad input or usage, 3 a check failed, 4 a run failed,
        130 interrupted, 129 and 143 ended by SIGHUP and SIGTERM.
    """
    prepare_streams()
    try:
        given = list(sys.argv[1:] if argv is None else argv)
        with _stopped_by_signals(), _joined_processes(given):
            return _main(given)
    except SystemExit as leave:  # argparse's --help and --version
        return int(leave.code or 0)
    except ToldError as error:
        return error.exit_code
    except DynamicPOError as error:
        # Of a failed run: the end of a task's own log.
        is_log = isinstance(error, RunFailedError)
        message = str(error) if is_log else limited(str(error))
        return _fail(message, error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED)
    except _StoppedError as stopped:
        number = signal.Signals(stopped.args[0])
        return _fail(f"stopped by {number.name}; nothing unfinished is left", 128 + number)
    except BrokenPipeError:
        # The reader of our output has left, as `head` does.
        _discard_output()
        return 1
    except OSError as error:
        _discard_output()
        where = f"{error.filename}: " if error.filename else ""
        problem = f"{where}can't be used: {error.strerror or error}"
        message = limited(f"{problem}. Check the path, its rights and the disk.")
        return _fail(message, _USAGE_ERROR)


def _joined_processes(argv: list[str]) -> contextlib.AbstractContextManager[None]:
    """The group of the processes that torchrun has started, for a command that is done by all."""
    is_shared = bool(argv) and argv[0] in SHARED_COMMANDS
    return joined_group() if is_shared else contextlib.nullcontext()


def _main(argv: list[str]) -> int:
    parser, commands = make_parser()
    if not argv:
        parser.print_help(sys.stderr)
        return _USAGE_ERROR
    # Before argparse sees it, whose message has no nearest name.
    first = argv[0]
    if not first.startswith("-") and first not in commands:
        raise unknown_name("command", first, commands)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        command_parser = commands[arguments.command]
        raise _unknown_argument(arguments.command, unknown[0], command_parser)
    # Here alone: as a library, dynamicpo leaves logging to the program that uses it.
    _set_up_logging(arguments.verbose)
    return _run(COMMANDS[arguments.command], arguments)


def _run(command: Command, arguments: argparse.Namespace) -> int:
    """Run a command and print its result. Returns the exit code."""
    result = command.run(arguments)
    if is_main():
        lines = [as_json(result)] if arguments.json else command.lines(result, arguments)
        for line in lines:
            print(printable(line))
    # Here, not at the interpreter's end: `main` then handles a reader that has left.
    sys.stdout.flush()
    has_failed = result.get("leak") or result.get("fails_gate")
    return _CHECK_FAILED if has_failed else 0


def _discard_output() -> None:
    """Discard what stdout still holds: Python would write it at its end, with a traceback."""
    # A stream of a test or a notebook has no file.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    # Where a closed terminal or a full disk takes no message, the exit code still tells.
    with contextlib.suppress(OSError):
        print(f"dynamicpo: {printable(message)}", file=sys.stderr, flush=True)
    return code


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Turn signals that end the process into exceptions."""
    previous = {}
    # As a library, in a thread of another program: not ours to handle.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            # `nohup` has a command ignore that its terminal is closed.
            if signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise _StoppedError(number)


def _unknown_argument(command: str, text: str, parser: argparse.ArgumentParser) -> ConfigError:
    if not text.startswith("-"):
        return ConfigError(
            f"{command}: unexpected argument {text!r}. See `dynamicpo {command} --help`."
        )
    # argparse has no public list of a parser's flags.
    flags: list[str] = []
    for action in parser._actions:
        flags.extend(action.option_strings)
    long_flags = [flag for flag in flags if flag.startswith("--")]
    flag, _, _ = text.partition("=")
    return unknown_name(command, flag, long_flags)


def _set_up_logging(verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    # `force`: a library that was imported before may have added a handler of its own.
    logging.basicConfig(handlers=[handler], force=True)
    # Ours only: at this level, other libraries would drown the progress.
    level = logging.DEBUG if verbose else logging.INFO
    # Other processes would say the same.
    logging.getLogger("dynamicpo").setLevel(level if is_main() else logging.ERROR)
