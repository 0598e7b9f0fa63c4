"""Wiring that every component shares: arguments to a configuration, results to KFP's artifacts."""

import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dynamicpo.core.config_checkpoints import (
    CHECKPOINT_MINUTES_VARIABLE,
    CHECKPOINT_PREFIX_VARIABLE,
    CheckpointConfig,
)
from dynamicpo.core.config_fields import ConfigClass, from_mapping
from dynamicpo.core.records.manifest import Manifest, write_json
from dynamicpo.runs.shown_metrics import shown_metrics

if TYPE_CHECKING:
    from kfp import dsl


def config_of(
    kind: type[ConfigClass], settings: Mapping[str, object], **parameters: object
) -> ConfigClass:
    """The stage's configuration from a component's settings and its main parameters.

    Args:
        kind: The config's class.
        settings: Some of its fields.
        **parameters: Others, which win; None where one was not given.

    Raises:
        ConfigError: An unknown setting, or a value that can't be used.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    return from_mapping(kind, {**settings, **given}, kind.__name__)


def compiled_checkpoints() -> CheckpointConfig | None:
    """Place and interval of checkpoints that a pipeline was compiled with; None without a place."""
    # By the environment: they are the same on a retry, and no part of the key of KFP's cache.
    place = os.environ.get(CHECKPOINT_PREFIX_VARIABLE, "")
    if not place:
        return None
    given = {"checkpoints": place}
    minutes = os.environ.get(CHECKPOINT_MINUTES_VARIABLE, "")
    if minutes:
        given["checkpoint_minutes"] = minutes
    return from_mapping(CheckpointConfig, given, CHECKPOINT_MINUTES_VARIABLE)


def log_stage_metrics(metrics: "dsl.Metrics", manifest: Manifest, model: str = "") -> None:
    """Log the metrics of a stage that Kubeflow shows.

    Args:
        metrics: The task's artifact of metrics.
        manifest: The stage's manifest.
        model: The name of the model that they are of. The tasks of a loop have one name, so that
            nothing else tells them apart where runs are compared.
    """
    log_metrics(metrics, shown_metrics(manifest))
    if model:
        metrics.metadata["model"] = model


def log_metrics(metrics: "dsl.Metrics", values: Mapping[str, object]) -> None:
    """Log each number as a metric of the task.

    Args:
        metrics: The task's artifact of metrics.
        values: Names to values; those that are not finite numbers are left out, KFP can't hold
            them.
    """
    numbers = {}
    for name, value in values.items():
        if isinstance(value, (int, float)) and math.isfinite(value):
            # KFP's compare page takes no other characters in a metric's name.
            metric = re.sub(r"\W", "_", name)
            numbers[metric] = float(value)
    for name, number in numbers.items():
        metrics.log_metric(name, number)
    # The metrics stand in the artifact's metadata, but the local cache of kfp takes an artifact
    # without a file for one that is lost, and never hits.
    write_json(Path(metrics.path), numbers)


def copy_report(folder: Path, report: "dsl.HTML") -> None:
    """Copy a stage's page to the path of an HTML artifact."""
    copy_file(folder / "report.html", report)


def copy_file(path: Path, artifact: "dsl.Artifact") -> None:
    """Copy a file to the path of an artifact that is one, such as `dsl.Markdown`."""
    shutil.copyfile(path, artifact.path)
