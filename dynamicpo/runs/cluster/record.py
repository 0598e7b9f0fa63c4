"""The record of a run on a cluster: `record.json`, written by the task that sees all evaluations.

Tasks that KFP takes from its cache leave nothing below the run's own prefix: their artifacts are an
earlier run's. So the record names each by its URI, which a stage returns beside the artifact and a
cache hit returns again; the task itself is never cached.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NotRequired

from dynamicpo import __version__
from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonObject, JsonValue
from dynamicpo.core.records.manifest import Manifest, read_manifest, write_json
from dynamicpo.runs.parameters import restored_parameters
from dynamicpo.runs.run_records import KeptRun, evaluated_metrics

if TYPE_CHECKING:
    from kfp import dsl

RECORD_FILE = "record.json"


class RunFacts(NamedTuple):
    """Facts about a run that no task can find out by itself, but KFP or the compiler can.

    Attributes:
        run: The run's id.
        pipeline: The pipeline's name.
        images: The images of its tasks.
        parameters: All its parameters.
    """

    run: str
    pipeline: str
    images: Sequence[str]
    parameters: Mapping[str, JsonValue]


class StageUris(NamedTuple):
    """URIs of what stages wrote. Each list is in the order of the evaluations.

    Attributes:
        rows: The preference rows.
        models: The models.
        training_reports: Their pages.
        evaluation_reports: The pages of their evaluations.
    """

    rows: str
    models: Sequence[str]
    training_reports: Sequence[str]
    evaluation_reports: Sequence[str]


class ClusterRecord(KeptRun):
    """The content of `record.json`.

    Attributes:
        run: The run's id.
        images: The images of its tasks.
        rows: URI of the preference rows.
        training_rows: The number of rows that each model was trained on, and of those that SFT had
            taken, too.
        models: URI of each model.
        evaluations: URI of each model's evaluation; that of SFT holds the baselines, too.
        reports: URIs of the pages of each model: its training and its evaluation.
        retraining: The decision on the challenger and its version; of a retraining only.
    """

    run: str
    images: list[str]
    rows: str
    training_rows: dict[str, dict[str, float]]
    models: dict[str, str]
    evaluations: dict[str, str]
    reports: dict[str, dict[str, str]]
    retraining: NotRequired[JsonObject]


def write_record(
    folder: Path,
    facts: RunFacts,
    evaluations: "Sequence[dsl.Artifact]",
    uris: StageUris,
    report: str,
    retraining: JsonObject | None = None,
) -> None:
    """Write `record.json` into a folder.

    Args:
        folder: The folder, which is made.
        facts: Facts about the run.
        evaluations: The artifacts of all evaluations: that of the SFT model, then the others.
        uris: Where the stages wrote.
        report: URI of the run's page.
        retraining: The decision on the challenger, where there was one.

    Raises:
        DataError: An evaluation of no model, or other numbers of evaluations and of URIs.
    """
    folders = [Path(artifact.path) for artifact in evaluations]
    manifests = [read_manifest(path, "evaluate") for path in folders]
    names = [_model_name(*evaluated) for evaluated in zip(folders, manifests, strict=True)]
    record: ClusterRecord = {
        "run": facts.run,
        "pipeline": facts.pipeline,
        # Kubeflow delivers 40 as 40.0, and long seeds as text.
        "parameters": restored_parameters(facts.parameters),
        "package_version": __version__,
        "images": list(facts.images),
        "metrics": evaluated_metrics(folders),
        "report": report,
        "rows": uris.rows,
        "training_rows": _training_rows(names, manifests),
        "models": _by_name(names, uris.models),
        "evaluations": _by_name(names, [artifact.uri for artifact in evaluations]),
        "reports": {
            "training": _by_name(names, uris.training_reports),
            "evaluation": _by_name(names, uris.evaluation_reports),
        },
    }
    if retraining:
        record["retraining"] = retraining
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECORD_FILE, record)


def _model_name(evaluation: Path, manifest: Manifest) -> str:
    """The model that an evaluation is of; the first one where the base model is in it, too."""
    names = manifest.inputs["models"].split()
    if not names:
        raise DataError(f"{evaluation}: must be the evaluation of a model, but it is of none.")
    return names[0]


def _training_rows(
    names: Sequence[str], manifests: Sequence[Manifest]
) -> dict[str, dict[str, float]]:
    rows = {}
    for name, manifest in zip(names, manifests, strict=True):
        rows[name] = manifest.extra["models"][name]["rows"]
    return rows


def _by_name(names: Sequence[str], uris: Sequence[str]) -> dict[str, str]:
    if len(names) != len(uris):
        raise DataError(
            f"record: must have one URI for each of {', '.join(names)}, got {len(uris)}. "
            "Give those of the SFT model, then those of the others in the same order."
        )
    return dict(zip(names, uris, strict=True))
