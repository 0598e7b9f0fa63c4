"""What every component does around its stage: parameters to a configuration, a manifest to KFP's artifacts."""

import dataclasses
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from dynamicpo.core.config_fields import from_mapping
from dynamicpo.core.records.manifest import write_json

C = TypeVar("C")


def config_of(kind: type[C], arguments: Mapping[str, Any]) -> C:
    """The stage's configuration from a component's arguments, by name.

    Args:
        kind: The config's class; each of its fields is among the arguments.
        arguments: The component's arguments; others than the fields are left out.

    Raises:
        ConfigError: A value can't be used.
    """
    names = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return from_mapping(kind, {name: arguments[name] for name in names}, kind.__name__)


def log_metrics(metrics: Any, values: Mapping[str, Any]) -> None:
    """Log each number, and write them to the artifact's file (without a file KFP's local cache never hits).

    Args:
        metrics: A `dsl.Metrics`.
        values: Names to values. What is not a finite number is left out; KFP can't hold it.
    """
    numbers = {
        re.sub(r"\W", "_", name): float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
    for name, value in numbers.items():
        metrics.log_metric(name, value)
    write_json(Path(metrics.path), numbers)


def copy_report(folder: Path, report: Any) -> None:
    """Copy a stage's page to the path of a `dsl.HTML` artifact."""
    copy_file(folder / "report.html", report)


def copy_file(path: Path, artifact: Any) -> None:
    """Copy a file to the path of an artifact that is one, such as `dsl.Markdown`."""
    shutil.copyfile(path, artifact.path)
