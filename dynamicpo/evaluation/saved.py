"""Finished evaluations, read back: every model with its result, its training log, and how it was made."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest, read_manifest
from dynamicpo.evaluation.results import Result, read_result
from dynamicpo.reports.training_log import read_training_log


class Entry(NamedTuple):
    """A model or baseline of an evaluation: its result, training log, and how it was made (empty for a baseline)."""

    result: Result
    steps: list[dict[str, float]]
    facts: Mapping[str, Any]


def read_sources(paths: Sequence[Path], where: str) -> list[Manifest]:
    """The manifests of evaluations that may stand side by side.

    Args:
        paths: Folders of evaluations.
        where: Who asks, for messages.

    Raises:
        DataError: One is missing, unfinished or something else, or they are of different rows or protocols.
    """
    sources = [read_manifest(path, "evaluate") for path in paths]
    for path, source in zip(paths, sources, strict=True):
        if lost := sorted({"models", "protocol", "warnings"} - source.extra.keys()):
            raise DataError(
                f"{path}: must say {', '.join(lost)}, but an earlier version of dynamicpo made it. Evaluate again."
            )
        first, other = sources[0].extra["protocol"], source.extra["protocol"]
        names = sorted(name for name in {*first, *other} if first.get(name) != other.get(name))
        if names:
            values = ", ".join(
                f"{name} ({first.get(name, 'none')} and {other.get(name, 'none')})"
                for name in names
            )
            raise DataError(
                f"{where}: evaluations must have the same rows and protocol, {paths[0]} and {path} differ in "
                f"{values}. Evaluate both in the same way."
            )
    return sources


def warnings_of(sources: Iterable[Manifest]) -> list[str]:
    """What evaluations warn of, each warning once: leaks, NaN scores, a single user."""
    return list(dict.fromkeys(text for source in sources for text in source.extra["warnings"]))


def models_of(source: Manifest) -> list[str]:
    """The names of an evaluation's models, baselines aside."""
    return source.inputs["models"].split()


def read_entry(folder: Path, source: Manifest) -> Entry:
    """A model or baseline: the folder of its name in an evaluation.

    Raises:
        DataError: It can't be read.
    """
    facts = source.extra["models"].get(folder.name, {})
    return Entry(
        read_result(folder, source.config["split"]), read_training_log(folder / "steps.jsonl"), facts
    )
