"""The table of all commands: arguments to a result, and a result to lines of text."""

import argparse
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dynamicpo.cli import description_output, output, version_output
from dynamicpo.cli.commands import pipelines, retrainings, versions
from dynamicpo.cli.commands.description import describe
from dynamicpo.cli.commands.stages import STAGE_COMMANDS, audit, check_drift, run_stage

# Any: each command has a result of its own, which JSON can hold, and its lines are made from that.
Run = Callable[[argparse.Namespace], Any]
Lines = Callable[[Any, argparse.Namespace], list[str]]


class Command(NamedTuple):
    """A sub-command.

    Attributes:
        run: The command, from its arguments to its result.
        lines: The result as text, for a person.
    """

    run: Run
    lines: Lines


_STAGE_LINES: Mapping[str, Lines] = {
    "evaluate": output.evaluation_lines,
    "judge-collapse": output.study_lines,
    "judge-challenger": version_output.gate_lines,
    "plan-retraining": version_output.gate_lines,
}


def _stage_command(name: str) -> Command:
    lines = _STAGE_LINES.get(name, output.stage_lines)
    return Command(functools.partial(run_stage, name), lines)


# Commands whose work several processes of torchrun do together.
SHARED_COMMANDS = ("sft", "train-preferences", "evaluate")
_STAGES = {name: _stage_command(name) for name in STAGE_COMMANDS}
COMMANDS: Mapping[str, Command] = {
    **_STAGES,
    "monitor-drift": Command(check_drift, version_output.drift_lines),
    "describe-data": Command(describe, description_output.description_lines),
    "audit-candidates": Command(audit, output.audit_lines),
    "compare": Command(pipelines.compare, output.comparison_lines),
    "run": Command(pipelines.run, output.run_lines),
    "runs": Command(pipelines.runs, output.run_list_lines),
    "compile": Command(pipelines.compile_pipeline, output.compile_lines),
    "submit": Command(pipelines.submit, output.submit_lines),
    "logs": Command(pipelines.logs, output.log_lines),
    "publish-version": Command(versions.publish_version, version_output.published_lines),
    "promote": Command(versions.promote, version_output.decision_lines),
    "roll-back": Command(versions.roll_back, version_output.decision_lines),
    "register-version": Command(versions.register_version, version_output.registered_lines),
    "list-versions": Command(versions.list_versions, version_output.version_list_lines),
    "list-retrainings": Command(retrainings.list_retrainings, retrainings.retraining_lines),
    "show-version": Command(versions.show_version, version_output.shown_version_lines),
}
