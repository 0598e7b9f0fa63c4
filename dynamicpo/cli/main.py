"""The entry point of the command line: runs a command and turns errors into exit codes."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from dynamicpo.cli.commands.table import COMMANDS, Command
from dynamicpo.cli.flags import make_parser
from dynamicpo.cli.output import as_json
from dynamicpo.core.errors import ConfigError, DynamicPOError, unknown_name

# Exit codes, beside those of the errors' classes; scripts and workflows go by them.
_USAGE_ERROR = 2
_CHECK_FAILED = 3
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments without the program's name (default: the process's).

    Returns:
        The exit code: 0 done, 2 bad input or usage, 3 a check failed, 4 a run failed,
        130 interrupted.
    """
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as leave:  # argparse's --help and --version
        return int(leave.code or 0)
    except DynamicPOError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has left, as `head` does. Python flushes stdout at its end and
        # would print a traceback there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        problem = f"{where}can't be used: {error.strerror or error}"
        return _fail(f"{problem}. Check the path, its rights and the disk.", _USAGE_ERROR)


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
    if arguments.json:
        lines = [as_json(result)]
    else:
        lines = command.lines(result, arguments)
    for line in lines:
        print(line)
    # Here, not at the interpreter's end: `main` then handles a reader that has left.
    sys.stdout.flush()
    return _CHECK_FAILED if result.get("leak") else 0


def _fail(message: str, code: int) -> int:
    print(f"dynamicpo: {message}", file=sys.stderr)
    return code


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
    # `force`: a library that was imported before may have added a handler of its own.
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    # Ours only: at this level, other libraries would drown the progress.
    logging.getLogger("dynamicpo").setLevel(logging.DEBUG if verbose else logging.INFO)
