"""Drift monitoring: a current window of rows against the training rows of a reference.

Distances, not p-values: with enough rows any difference is significant, and the verdict would
depend on their number.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dynamicpo.core.config import DriftConfig
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.records.manifest import Manifest, config_dict, input_fingerprint, write_json
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import read_rows
from dynamicpo.monitoring.columns import (
    COLUMN_MEANINGS,
    TEXT_COLUMNS,
    ComparedColumns,
    compared_columns,
)
from dynamicpo.monitoring.evidently_report import compare_columns
from dynamicpo.monitoring.windows import Window, read_window
from dynamicpo.reports.pages.drift import DriftColumn, DriftReport, drift_page

log = logging.getLogger(__name__)

# Evidently's names of distances, and what they are.
_METHODS = {
    "wasserstein": "Wasserstein distance, divided by the reference's standard deviation",
    "jensenshannon": "Jensen-Shannon distance",
}


@dataclass(frozen=True)
class DriftResult:
    """The result of a comparison.

    Attributes:
        drifted: True where enough columns have drifted.
        drifted_share: Share of the columns that have drifted.
        report: Verdict, rule, numbers of rows and the columns.
        rows_without_score: Rows of each window that the model could not score.
    """

    drifted: bool
    drifted_share: float
    report: DriftReport
    rows_without_score: Mapping[str, int]

    def to_json(self) -> JsonObject:
        """The content of `drift.json`."""
        columns: JsonObject = {}
        for column in self.report.columns:
            columns[column.name] = {
                "distance": column.distance,
                "drifted": column.drifted,
                "method": column.method,
                "meaning": column.meaning,
            }
        return {
            "drifted": self.drifted,
            "verdict": self.report.verdict,
            "rule": self.report.rule,
            "drifted_share": self.drifted_share,
            "columns": columns,
            "rows": {
                "reference": self.report.reference_rows,
                "current": self.report.current_rows,
            },
            "rows_without_score": self.rows_without_score,
        }

    def counts(self) -> dict[str, float]:
        """The counts of the stage's manifest."""
        counts = {
            "drifted": self.drifted,
            "drifted_share": self.drifted_share,
            "reference_rows": self.report.reference_rows,
            "current_rows": self.report.current_rows,
        }
        for column in self.report.columns:
            counts[f"{column.name}_distance"] = column.distance
        return counts


def monitor_drift(
    reference: Path, current: Path, output: Path, config: DriftConfig, model: Path | None = None
) -> Manifest:
    """Compare `config.split` of the current rows with the reference's training split.

    Args:
        reference: Preferences folder that a model was trained on.
        current: Preferences folder of now; may be the same.
        output: Folder to make: `drift.json`, `report.html`.
        config: Split, thresholds, rows and seed.
        model: Model folder; its score of the chosen item is then a column as well.

    Returns:
        The manifest; `counts` holds `drifted`, `drifted_share` and each column's distance.

    Raises:
        DataError: An empty window, or input that can't be used.
    """
    inputs = {
        "reference": input_fingerprint(reference),
        "current": input_fingerprint(current),
    }
    if model is not None:
        inputs["model"] = input_fingerprint(model)
    manifest = Manifest("monitor_drift", config_dict(config), inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    reference_window = read_window(reference, "train", config)
    current_window = read_window(current, config.split, config)
    with stage_output(output, manifest) as folder:
        trained_items = _trained_items(reference)
        columns = compared_columns(reference_window, current_window, trained_items)
        if model is not None:
            columns = _with_scores(columns, model, reference_window, current_window, config)
        result, page = _compare(columns, config)
        write_json(folder / "drift.json", result.to_json())
        (folder / "report.html").write_text(page, encoding="utf-8")
        manifest.counts = result.counts()
        manifest.extra = {"rule": result.report.rule}
    log.info("%s: %s", output, result.report.verdict)
    return manifest


def _trained_items(reference: Path) -> set[str]:
    """All items of the training rows, not only of those in the window."""
    rows = read_rows(reference, "train")
    histories = rows["history"].combine_chunks()
    return {
        *rows["target"].to_pylist(),
        *histories.flatten().to_pylist(),
    }


def _with_scores(
    columns: ComparedColumns, model: Path, reference: Window, current: Window, config: DriftConfig
) -> ComparedColumns:
    # Here, because torch and transformers take seconds to import, for nothing without a model.
    from dynamicpo.models.backbones import permissions_of
    from dynamicpo.monitoring.chosen_scores import chosen_scores

    permissions = permissions_of(config)
    reference_scores = chosen_scores(model, reference, "reference", permissions)
    current_scores = chosen_scores(model, current, "current", permissions)
    return ComparedColumns(
        reference=columns.reference.assign(chosen_score=reference_scores),
        current=columns.current.assign(chosen_score=current_scores),
    )


def _compare(columns: ComparedColumns, config: DriftConfig) -> tuple[DriftResult, str]:
    """Compare the columns and apply the rule; returns the page, too."""
    methods = {}
    for name, values in columns.reference.items():
        methods[str(name)] = _distance_method(str(name), values)
    comparison = compare_columns(columns, methods, config)
    drift_columns = []
    for name, distance in comparison.distances.items():
        column = DriftColumn(
            name=name,
            distance=distance,
            drifted=distance >= config.threshold,
            method=_METHODS[methods[name]],
            meaning=COLUMN_MEANINGS[name],
        )
        drift_columns.append(column)
    result = _apply_rule(drift_columns, columns, config)
    return result, drift_page(result.report, comparison.page)


def _distance_method(name: str, reference: pd.Series) -> str:
    """Choose the distance of a column.

    Wasserstein is for numbers. It is divided by the reference's spread, which must not be 0; and
    items unseen in training are none in training rows, by definition.
    """
    if name in TEXT_COLUMNS or name == "unseen_share":
        return "jensenshannon"
    is_constant = reference.nunique() < 2
    return "jensenshannon" if is_constant else "wasserstein"


def _apply_rule(
    drift_columns: list[DriftColumn], columns: ComparedColumns, config: DriftConfig
) -> DriftResult:
    num_drifted = sum(column.drifted for column in drift_columns)
    share = num_drifted / len(drift_columns)
    # At least one, so that a share of 0 does not make everything drift.
    drifted = num_drifted > 0 and share >= config.drift_share
    conclusion = "Drifted" if drifted else "Not drifted"
    rule = (
        f"Drifted when at least {config.drift_share:.0%} of the columns, and at least one, "
        f"have drifted; a column has drifted when its distance is at least {config.threshold:g}."
    )
    report = DriftReport(
        verdict=f"{conclusion}: {num_drifted} of {len(drift_columns)} columns have drifted.",
        rule=rule,
        reference_rows=len(columns.reference),
        current_rows=len(columns.current),
        columns=drift_columns,
    )
    rows_without_score = {
        "reference": _count_without_score(columns.reference),
        "current": _count_without_score(columns.current),
    }
    return DriftResult(drifted, share, report, rows_without_score)


def _count_without_score(columns: pd.DataFrame) -> int:
    if "chosen_score" not in columns:
        return 0
    return int(columns["chosen_score"].isna().sum())
