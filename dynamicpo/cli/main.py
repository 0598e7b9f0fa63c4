"""The command line: `dynamicpo <command>`. Results go to stdout, logs and progress to stderr.

The flags of a stage are the fields of its configuration; their values are converted and checked there.
"""

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dynamicpo import __version__
from dynamicpo.cli.commands.stages import SEVERAL, STAGES, Stage
from dynamicpo.cli.commands.table import COMMANDS
from dynamicpo.core.errors import ConfigError, DynamicPOError, unknown_name


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments without the program's name (default: the process's).

    Returns:
        The exit code: 0 done, 2 bad input or usage, 3 a check said no, 4 a run failed, 130 interrupted.
    """
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as leave:  # argparse's --help and --version
        return int(leave.code or 0)
    except DynamicPOError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(
            f"{where}can't be used: {error.strerror or error}. Check the path, its rights and the disk.",
            2,
        )


def _main(argv: list[str]) -> int:
    parser, commands = _parser()
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    if not argv[0].startswith("-") and argv[0] not in commands:
        raise unknown_name("command", argv[0], commands)
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        raise _unknown_argument(arguments.command, rest[0], commands[arguments.command])
    _set_up_logging(arguments.verbose)
    result = COMMANDS[arguments.command](vars(arguments))
    for line in _lines(arguments, result):
        print(line)
    sys.stdout.flush()
    return 3 if result.get("leak") else 0


def _fail(message: str, code: int) -> int:
    print(f"dynamicpo: {message}", file=sys.stderr)
    return code


def _unknown_argument(command: str, text: str, parser: argparse.ArgumentParser) -> ConfigError:
    if not text.startswith("-"):
        return ConfigError(
            f"{command}: unexpected argument {text!r}. See `dynamicpo {command} --help`."
        )
    flags = [
        flag
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--")
    ]
    return unknown_name(command, text.partition("=")[0], flags)


def _set_up_logging(verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    logging.getLogger("dynamicpo").setLevel(logging.DEBUG if verbose else logging.INFO)


def _lines(arguments: argparse.Namespace, result: Mapping[str, Any]) -> list[str]:
    """The result as text: JSON, a table, or names and values."""
    if arguments.json or arguments.command == "audit-candidates":
        return [json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False)]
    if arguments.command == "runs":
        return [_run_line(run) for run in result["runs"]] or [
            f"no runs in {arguments.host or arguments.folder}"
        ]
    if arguments.command == "run":
        return [
            *_tables(result),
            *_sentences(result),
            str(Path(result["folder"]) / result["report"]),
        ]
    if arguments.command == "compile":
        return [result["output"]]
    if arguments.command == "submit":
        return [result["link"]]
    if "sentences" in result:
        return [*_sentences(result), result["output"]]
    if "metrics" in result:
        return [*_tables(result), result.get("report", result["output"])]
    return [*(f"{name:<32} {value}" for name, value in result["counts"].items()), result["output"]]


class _Parser(argparse.ArgumentParser):
    """Raises our errors in place of leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}. See `{self.prog} --help`.")


def _parser() -> tuple[_Parser, Mapping[str, argparse.ArgumentParser]]:
    parser = _Parser(prog="dynamicpo", description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("-v", "--verbose", action="store_true", help="log more")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text, parents=[common], allow_abbrev=False
        )

    for name, stage in STAGES.items():
        _add_stage(add(name, stage.help), stage)
    audit = add(
        "audit-candidates", "whether candidate lists give the answer away (exit code 3 if so)"
    )
    audit.add_argument(
        "--train", required=True, metavar="ROWS", help="preferences folder, or published rows"
    )
    audit.add_argument("--test", required=True, metavar="ROWS", help="the rows to attack, likewise")
    _add_compare(add("compare", "compare runs, or evaluations, on the same rows"))
    run = add("run", "run a pipeline on this machine")
    _add_parameters(run)
    run.add_argument("--output", help="folder of the run (default: runs/PIPELINE-TIME)")
    run.add_argument(
        "--runner",
        choices=["subprocess", "docker"],
        default="subprocess",
        help="what the tasks run in",
    )
    run.add_argument(
        "--image", default="", help="image of the containers, for --runner docker (`make images`)"
    )
    run.add_argument("--workers", type=int, default=1, help="tasks of a loop at once (default: 1)")
    runs = add("runs", "list runs with their state and HitRatio@1")
    runs.add_argument("folder", nargs="?", default="runs", help="where they are (default: runs)")
    _add_installation(runs, required=False)
    compiled = add("compile", "write a pipeline as YAML for Kubeflow")
    compiled.add_argument("pipeline")
    compiled.add_argument("-o", "--output", required=True, metavar="FILE")
    _add_images(compiled)
    _add_submit(add("submit", "start a pipeline on a Kubeflow installation"))
    return parser, commands.choices


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    """A pipeline and the parameters of its run."""
    parser.add_argument("pipeline")
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the pipeline",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of parameters; --param wins")


def _add_submit(parser: argparse.ArgumentParser) -> None:
    """Where a pipeline is started, and how long to stay with it."""
    _add_parameters(parser)
    _add_images(parser)
    parser.add_argument(
        "--no-image-check",
        dest="image_check",
        action="store_false",
        help="don't ask whether images hold dynamicpo",
    )
    _add_installation(parser, required=True)
    parser.add_argument(
        "--experiment", default="dynamicpo", metavar="NAME", help="what the run is listed under"
    )
    parser.add_argument(
        "--cron", default="", metavar="FIELDS", help="on a schedule, such as '0 0 3 * * 1', not now"
    )
    parser.add_argument(
        "--wait", type=float, metavar="MINUTES", help="until it has ended (exit code 4 if not well)"
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    """What a compiled pipeline depends on beside its source."""
    parser.add_argument(
        "--image", required=True, help="image of every task, by digest: NAME@sha256:..."
    )
    parser.add_argument(
        "--allow-tag", action="store_true", help="take images by tag (KFP's cache may be stale)"
    )
    parser.add_argument(
        "--placement", metavar="FILE", help="YAML file: nodes, resources and volumes (k8s/overlays)"
    )
    parser.add_argument(
        "--place", action="append", default=[], metavar="NAME=VALUE", help="one of them; wins"
    )


def _add_compare(parser: argparse.ArgumentParser) -> None:
    """Which runs, and where they are."""
    help_ = "a run's folder or name, an evaluation's folder; with --host a run's id or name"
    parser.add_argument("run", nargs="+", metavar="RUN", help=help_)
    parser.add_argument("--output", help="folder to make (default: FOLDER/compare-TIME)")
    parser.add_argument("--folder", default="runs", help="where runs are (default: runs)")
    _add_installation(parser, required=False)
    parser.add_argument(
        "--store",
        default="",
        metavar="PREFIX",
        help="below which its pipelines write, gs://... or a path",
    )


def _add_installation(parser: argparse.ArgumentParser, required: bool) -> None:
    """How to reach a Kubeflow installation."""
    text = "where Kubeflow's API or UI answers"
    parser.add_argument("--host", required=required, default="", metavar="URL", help=text)
    parser.add_argument(
        "--namespace", default="", metavar="NS", help="yours, where it has one for each user"
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help="holds a bearer token, where it asks for one"
    )


def _add_stage(parser: argparse.ArgumentParser, stage: Stage) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML file with the same names; flags win")
    for name, text in [*stage.required.items(), *stage.optional.items()]:
        more: Any = (
            SEVERAL[name] if name in SEVERAL and name in stage.required else {"metavar": "PATH"}
        )
        parser.add_argument(_flag(name), default=argparse.SUPPRESS, help=text, **more)
    for item in dataclasses.fields(stage.kind):
        choices = f" [{', '.join(item.metadata['choices'])}]" if item.metadata["choices"] else ""
        text = f"{item.metadata['help']}{choices} (default: {item.default!r})"
        how: Any = (
            {"action": argparse.BooleanOptionalAction}
            if item.type is bool
            else {"metavar": "VALUE"}
        )
        parser.add_argument(
            _flag(item.name), default=argparse.SUPPRESS, help=text.replace("%", "%%"), **how
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _run_line(run: Mapping[str, Any]) -> str:
    headline = ", ".join(f"{name} {value:.3f}" for name, value in run["hit_ratio_at_1"].items())
    seconds = "–" if run["seconds"] is None else f"{run['seconds']:.0f} s"
    line = f"{run['run']:<36} {run['state'] or 'unknown':<10} {seconds:>9}"
    return "  ".join(
        [
            line,
            *([run["name"]] if "name" in run else []),
            *([f"HitRatio@1: {headline}"] if headline else []),
        ]
    )


def _sentences(result: Mapping[str, Any]) -> list[str]:
    """A study's verdict, a sentence a line."""
    return [line for sentence in result.get("sentences", []) for line in (sentence, "")]


def _tables(result: Mapping[str, Any]) -> list[str]:
    """The models' metrics; the paired differences, and what differs between runs, where they were compared."""
    from dynamicpo.reports.pages.comparisons import differences_table
    from dynamicpo.reports.pages.evaluation import settings_table
    from dynamicpo.reports.pages.metric_tables import metrics_table
    from dynamicpo.reports.pages.tables import text_table

    tables = [text_table(metrics_table(result["metrics"]))] if result["metrics"] else []
    if result.get("comparisons"):
        tables.append(text_table(differences_table(result["comparisons"])))
    if result.get("runs"):
        tables.append(text_table(settings_table(result["runs"])))
    return [line for table in tables for line in (table, "")]
