"""Finished evaluations, read back: every model with its result, training log and provenance."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest, read_input
from dynamicpo.core.records.shapes import as_shape
from dynamicpo.evaluation.result_files import BESIDE, read_result
from dynamicpo.evaluation.results import ModelResult
from dynamicpo.evaluation.top_items import TopItems, read_top_items
from dynamicpo.reports.training_log import read_training_log


class ModelProvenance(TypedDict, total=False):
    """The origin of a model: how it was made, and from what. Empty for a baseline.

    Attributes:
        fingerprint: A name for its content.
        stage: The stage that made it.
        config: The configuration of that stage.
        inputs: A checksum for each of the stage's inputs.
        backbone: The base model.
        rows: The number of its training's rows and, after SFT, of those that SFT had taken, too.
    """

    fingerprint: str
    stage: str
    config: dict[str, Any]  # each stage has its own settings, as in `Manifest`
    inputs: dict[str, str]
    backbone: str
    rows: dict[str, float]


class _Entries(TypedDict):
    models: dict[str, ModelProvenance]
    protocol: dict[str, Any]  # texts and numbers; a later version may have others
    warnings: list[str]


class _Inputs(TypedDict):
    models: str
    preferences: str


class _Config(TypedDict):
    split: str
    resamples: int
    seed: int


class SavedResult(NamedTuple):
    """A model or baseline of a finished evaluation.

    Attributes:
        result: Its ranking of the evaluation's candidates.
        beside: That of every item, or of a generator's proposals, where it stands beside.
        training_log: Lines of its training; none for a baseline.
        provenance: Its origin.
        top_items: Its first items of all or of proposals, for some users.
    """

    result: ModelResult
    beside: ModelResult | None
    training_log: list[dict[str, float]]
    provenance: ModelProvenance
    top_items: TopItems | None


def read_sources(paths: Sequence[Path], where: str) -> list[Manifest]:
    """Read the manifests of evaluations that may stand side by side.

    Args:
        paths: Folders of evaluations.
        where: The stage's name in messages.

    Raises:
        DataError: One is missing, unfinished or something else, or they are of different rows or
            protocols.
    """
    sources = [read_input(path, "evaluate") for path in paths]
    for path, source in zip(paths, sources, strict=True):
        missing = sorted({"models", "protocol", "warnings"} - source.extra.keys())
        if missing:
            raise DataError(
                f"{path}: must say {', '.join(missing)}, but an earlier version of dynamicpo made "
                "it. Evaluate again."
            )
        _check_entries(path, source)
        differences = _protocol_differences(sources[0], source)
        if differences:
            raise DataError(
                f"{where}: evaluations must have the same rows and protocol, {paths[0]} and {path} "
                f"differ in {', '.join(differences)}. Evaluate both in the same way."
            )
    return sources


def _check_entries(folder: Path, source: Manifest) -> None:
    path = folder / "manifest.json"
    as_shape(path, source.extra, _Entries)
    as_shape(path, source.inputs, _Inputs)
    as_shape(path, source.config, _Config)


def _protocol_differences(first: Manifest, other: Manifest) -> list[str]:
    """The entries of the protocol in which two evaluations differ, with both values."""
    first_protocol = first.extra["protocol"]
    other_protocol = other.extra["protocol"]
    # Either may have entries that the other lacks, such as the strategy of listed candidates.
    names = sorted({*first_protocol, *other_protocol})
    differences = []
    for name in names:
        value = first_protocol.get(name, "none")
        other_value = other_protocol.get(name, "none")
        if value != other_value:
            text = f"{name} ({value} and {other_value})"
            differences.append(text)
    return differences


def warnings_of(sources: Iterable[Manifest]) -> list[str]:
    """The warnings of evaluations, each once: leaks, NaN scores, a single user."""
    warnings: dict[str, None] = {}
    for source in sources:
        for text in source.extra["warnings"]:
            warnings[text] = None
    return list(warnings)


def evaluated_models(source: Manifest) -> list[str]:
    """The names of an evaluation's models, baselines aside."""
    return source.inputs["models"].split()


def kind_beside(protocol: Mapping[str, object]) -> str | None:
    """The kind of `EvaluationData` that was ranked beside the lists; None for none."""
    kinds = [kind for kind in BESIDE if kind in protocol]
    return kinds[0] if kinds else None


def read_saved_result(folder: Path, source: Manifest) -> SavedResult:
    """Read a model or baseline: the folder of its name in an evaluation.

    Raises:
        DataError: It can't be read.
    """
    split = source.config["split"]
    # Baselines are not among the models, and have no origin.
    models: dict[str, ModelProvenance] = source.extra["models"]
    provenance = models.get(folder.name, ModelProvenance())
    kind = kind_beside(source.extra["protocol"])
    return SavedResult(
        result=read_result(folder, split),
        beside=read_result(folder / kind, split) if kind else None,
        training_log=read_training_log(folder / "steps.jsonl"),
        provenance=provenance,
        top_items=read_top_items(folder),
    )
