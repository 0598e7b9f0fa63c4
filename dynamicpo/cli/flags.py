"""The flags of every command. Those of a stage are the fields of its configuration."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import NoReturn

from dynamicpo import __version__
from dynamicpo.cli.commands.checkpoint_flags import CHECKPOINT_NUMBERS
from dynamicpo.cli.commands.stages import (
    REPEATED_PATHS,
    STAGE_COMMANDS,
    ArgumentOptions,
    StageCommand,
    StageConfig,
)
from dynamicpo.cli.version_flags import add_version_commands
from dynamicpo.core.config_fields import choices_of
from dynamicpo.core.errors import ConfigError

DESCRIPTION = (
    "The command line: `dynamicpo <command>`. Results go to stdout, logs and progress to stderr."
)


class Parser(argparse.ArgumentParser):
    """Raises our errors instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise the error of a flag that can't be used."""
        raise ConfigError(f"{self.prog}: {message}. See `{self.prog} --help`.")


def make_parser() -> tuple[Parser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of the command line, and those of its commands by name."""
    # Abbreviations are refused everywhere: `--num-neg` of today may be two flags tomorrow.
    parser = Parser(prog="dynamicpo", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = Parser(add_help=False)
    # Behind the command, where users write them: `dynamicpo sft --json`.
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("-v", "--verbose", action="store_true", help="log more")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text, parents=[common], allow_abbrev=False
        )

    for name, command in STAGE_COMMANDS.items():
        _add_stage(add(name, command.help), command)
    # Of the command alone: a pod never fails because of drift.
    commands.choices["monitor-drift"].add_argument(
        "--gate",
        action="store_true",
        help="exit code 3 where rows have drifted, or users are too few to tell",
    )
    describe = add("describe-data", "what a file holds, and the settings that read it")
    describe.add_argument("input", metavar="FILE", help="a file, a folder of parts, or a glob")
    _add_audit(
        add("audit-candidates", "whether candidate lists give the answer away (exit code 3 if so)")
    )
    _add_compare(add("compare", "compare runs, or evaluations, on the same rows"))
    _add_run(add("run", "run a pipeline on this machine"))
    _add_runs(add("runs", "list runs with their state and HitRatio@1"))
    _add_compile(add("compile", "write a pipeline as YAML for Kubeflow"))
    _add_submit(add("submit", "start a pipeline on a Kubeflow installation"))
    _add_logs(add("logs", "why a run of a Kubeflow installation failed, or what a task wrote"))
    add_version_commands(add)
    return parser, commands.choices


def _add_stage(parser: argparse.ArgumentParser, command: StageCommand[StageConfig]) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML file with the same names; flags win")
    for name, text in {**command.required, **command.optional}.items():
        options: ArgumentOptions = {"metavar": "N" if name in CHECKPOINT_NUMBERS else "PATH"}
        if name in REPEATED_PATHS and name in command.required:
            options = REPEATED_PATHS[name]
        # Without a default a flag that is not given leaves no trace, and the file's value stands.
        parser.add_argument(flag_of(name), default=argparse.SUPPRESS, help=text, **options)
    for item in dataclasses.fields(command.config_class):
        options = {"metavar": "VALUE"}
        # `--no-...` as well: a file may have turned on what the default leaves off.
        if item.type is bool:
            options = {"action": argparse.BooleanOptionalAction}
        # Values stay text here: the configuration converts and checks them, those of a file too.
        parser.add_argument(
            flag_of(item.name), default=argparse.SUPPRESS, help=_field_help(item), **options
        )


def _field_help(item: "dataclasses.Field[object]") -> str:
    text = item.metadata["help"]
    choices = ", ".join(choices_of(item))
    if choices:
        text = f"{text} [{choices}]"
    text = f"{text} (default: {item.default!r})"
    # argparse formats help texts with `%`.
    return text.replace("%", "%%")


def flag_of(name: str) -> str:
    """The flag of a field or path."""
    return "--" + name.replace("_", "-")


def _add_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--train", required=True, metavar="ROWS", help="preferences folder, or published rows"
    )
    parser.add_argument(
        "--test", required=True, metavar="ROWS", help="the rows to attack, likewise"
    )


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        nargs="+",
        metavar="RUN",
        help="a run's folder or name, an evaluation's folder; with --host a run's id or name",
    )
    parser.add_argument("--output", help="folder to make (default: FOLDER/compare-TIME)")
    parser.add_argument("--folder", default="runs", help="where runs are (default: runs)")
    # Without a host, runs of this machine are compared.
    _add_installation(parser, required=False)
    _add_store(parser)


def _add_store(parser: argparse.ArgumentParser) -> None:
    """Add the place of the artifacts of an installation's runs."""
    parser.add_argument(
        "--store",
        default="",
        metavar="PREFIX",
        help="below which its pipelines write, gs://..., s3://..., minio://... or a path "
        "(default: the run's, else KFP's own)",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_parameters(parser)
    parser.add_argument("--output", help="folder of the run (default: runs/PIPELINE-TIME)")
    parser.add_argument(
        "--runner",
        choices=["subprocess", "docker"],
        default="subprocess",
        help="what the tasks run in",
    )
    parser.add_argument(
        "--image", default="", help="image of the containers, for --runner docker (`make images`)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="tasks at once, which share the processors (default: 1)",
    )


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="runs", help="where they are (default: runs)")
    _add_installation(parser, required=False)
    _add_store(parser)


def _add_compile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pipeline")
    parser.add_argument("-o", "--output", required=True, metavar="FILE")
    _add_images_and_placement(parser)


def _add_submit(parser: argparse.ArgumentParser) -> None:
    _add_parameters(parser)
    _add_images_and_placement(parser)
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
    _add_log_places(parser)


def _add_logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="its id or name")
    parser.add_argument(
        "--task", default="", metavar="NAME", help="also print all that this task wrote"
    )
    _add_installation(parser, required=True)
    _add_log_places(parser)


def _add_log_places(parser: argparse.ArgumentParser) -> None:
    """Add the places of a run's artifacts, and of its logs where it failed."""
    _add_store(parser)
    parser.add_argument(
        "--archive",
        default="",
        metavar="PREFIX",
        help="below which Argo keeps logs (default: minio://mlpipeline/private-artifacts/NS)",
    )


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    """Add a pipeline and the parameters of its run."""
    parser.add_argument("pipeline")
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the pipeline",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of parameters; --param wins")


def _add_images_and_placement(parser: argparse.ArgumentParser) -> None:
    """Add the things that a compiled pipeline depends on beside its source."""
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
    parser.add_argument(
        "--no-menus",
        dest="menus",
        action="store_false",
        help="leave the run form's menus out (the server refuses other values than theirs)",
    )


def _add_installation(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the address of a Kubeflow installation, and the login."""
    parser.add_argument(
        "--host",
        required=required,
        default="",
        metavar="URL",
        help="where Kubeflow's API or UI answers",
    )
    parser.add_argument(
        "--namespace", default="", metavar="NS", help="yours, where it has one for each user"
    )
    # A file, not the token: every process of a machine can read the flags of the others.
    parser.add_argument(
        "--token-file", metavar="FILE", help="holds a bearer token, where it asks for one"
    )
    parser.add_argument(
        "--header-file",
        metavar="FILE",
        help="holds headers, `Name: value` a line, such as a login's cookie",
    )
    parser.add_argument(
        "--ui", default="", metavar="URL", help="what links begin with (default: --host)"
    )
