"""Metrics of a training in TensorBoard, MLflow and Weights & Biases, by transformers' callbacks.

Each finds its server and its credentials where its own documentation says, in the environment;
nothing of that is read or written here.
"""

import copy
import importlib.util
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from dynamicpo.core.config_reporting import ReportingSettings, reporters_of
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.messages import reason_of, without_secrets
from dynamicpo.training.step_log import StepLog

log = logging.getLogger(__name__)


def check_reporters(settings: ReportingSettings) -> None:
    """Refuse a training whose metrics are to go where no installed package takes them.

    Raises:
        ConfigError: A package is missing.
    """
    for name in reporters_of(settings):
        # Each has the name of its package.
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"report_to: {name} needs the package {name}, which is not installed. "
                "Install dynamicpo[reporting] (for wandb: wandb), or leave it out."
            )


class Reporting(TrainerCallback):
    """Hands the line of each step on; who fails is left out from then on, and training goes on.

    Args:
        reporters: Callbacks of transformers by name.
        step_log: The lines, which it has written before.
        name: The training's name.
    """

    def __init__(
        self, reporters: Mapping[str, TrainerCallback], step_log: StepLog, name: str
    ) -> None:
        """Start with all of them."""
        self._reporters = dict(reporters)
        self._step_log = step_log
        self._name = name

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start a run of the training's name."""
        named = copy.copy(args)
        named.run_name = self._name
        self._each(lambda reporter: reporter.on_train_begin(named, state, control, **kwargs))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Hand the step's metrics on, which the first process alone has."""
        if not state.is_world_process_zero:
            return
        line = self._step_log.steps[-1]
        metrics = {name: value for name, value in line.items() if name != "step"}
        self._each(lambda reporter: reporter.on_log(args, state, control, logs=metrics))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the run."""
        self._each(lambda reporter: reporter.on_train_end(args, state, control, **kwargs))

    def _each(self, call: Callable[[TrainerCallback], None]) -> None:
        for name, reporter in list(self._reporters.items()):
            try:
                call(reporter)
            # Of whatever kind: hours of training are not lost for a server that went away.
            except Exception as error:
                del self._reporters[name]
                reason = without_secrets(reason_of(error))
                log.warning("report_to: %s failed (%s); training goes on without it", name, reason)


def make_reporting(settings: ReportingSettings, step_log: StepLog, name: str) -> Reporting | None:
    """The callback for a training; None where nobody is sent its metrics.

    Args:
        settings: The names, and TensorBoard's folder.
        step_log: The training's lines.
        name: The training's name.
    """
    names = reporters_of(settings)
    if not names:
        return None
    reporters = {}
    for reporter, kind in zip(names, get_reporting_integration_callbacks(names), strict=True):
        reporters[reporter] = kind()
    if "tensorboard" in reporters:
        reporters["tensorboard"].logging_dir = _event_folder(settings, name)
    return Reporting(reporters, step_log, name)


def _event_folder(settings: ReportingSettings, name: str) -> str:
    """A folder of its own for each attempt: TensorBoard draws one line for each."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    started = time.strftime("%Y-%m-%d-%H-%M-%S")
    folder = Path(settings.report_folder).expanduser()
    return str(folder / "-".join(words) / started)
