"""Results of commands as lines of text."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynamicpo.cli.results import (
    ComparisonResult,
    CompileResult,
    EvaluationResult,
    RunList,
    StageResult,
    StudyResult,
    SubmitResult,
)

if TYPE_CHECKING:
    from dynamicpo.negatives.audit.audit import CandidateAudit
    from dynamicpo.reports.pages.comparisons import PairedComparison
    from dynamicpo.reports.pages.evaluation import SettingDifferences
    from dynamicpo.reports.pages.metric_names import ModelMetrics
    from dynamicpo.runs.local.summary import FinishedRun
    from dynamicpo.runs.run_records import ListedRun


def as_json(result: Mapping[str, object]) -> str:
    """A result as JSON, with sorted keys."""
    return json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False)


def audit_lines(result: "CandidateAudit", _: argparse.Namespace) -> list[str]:
    """The audit as JSON: it has no other form."""
    return [as_json(result)]


def stage_lines(result: StageResult, _: argparse.Namespace) -> list[str]:
    """A stage's counts and its folder."""
    counts = [f"{name:<32} {value}" for name, value in result["counts"].items()]
    return [*counts, result["output"]]


def evaluation_lines(result: EvaluationResult, _: argparse.Namespace) -> list[str]:
    """The table of metrics, and the evaluation's folder."""
    return [*_tables(result["metrics"]), result["output"]]


def study_lines(result: StudyResult, _: argparse.Namespace) -> list[str]:
    """The study's verdict, and its folder."""
    return [*_paragraphs(result["sentences"]), result["output"]]


def comparison_lines(result: ComparisonResult, _: argparse.Namespace) -> list[str]:
    """Tables of metrics, of paired comparisons and of settings, and the comparison's page."""
    tables = _tables(result["metrics"], result["comparisons"], result["runs"])
    return [*tables, result["report"]]


def run_lines(result: "FinishedRun", _: argparse.Namespace) -> list[str]:
    """A run's metrics, comparisons and verdict, and its page."""
    tables = _tables(result["metrics"], result.get("comparisons", ()))
    verdict = _paragraphs(result.get("sentences", ()))
    return [*tables, *verdict, str(Path(result["folder"]) / result["report"])]


def run_list_lines(result: RunList, arguments: argparse.Namespace) -> list[str]:
    """A line for each run."""
    if not result["runs"]:
        return [f"no runs in {arguments.host or arguments.folder}"]
    return [_run_line(run) for run in result["runs"]]


def compile_lines(result: CompileResult, _: argparse.Namespace) -> list[str]:
    """The compiled file."""
    return [result["output"]]


def submit_lines(result: SubmitResult, _: argparse.Namespace) -> list[str]:
    """The page of the run."""
    return [result["link"]]


def _run_line(run: "ListedRun") -> str:
    state = run["state"] or "unknown"
    seconds = "–" if run["seconds"] is None else f"{run['seconds']:.0f} s"
    parts = [f"{run['run']:<36} {state:<10} {seconds:>9}"]
    # A run on a cluster has an id and a name; one of this machine only the name of its folder.
    if "name" in run:
        parts.append(run["name"])
    ratios = [f"{model} {value:.3f}" for model, value in run["hit_ratio_at_1"].items()]
    if ratios:
        parts.append(f"HitRatio@1: {', '.join(ratios)}")
    return "  ".join(parts)


def _paragraphs(sentences: Sequence[str]) -> list[str]:
    return [line for sentence in sentences for line in (sentence, "")]


def _tables(
    metrics: "ModelMetrics",
    comparisons: "Sequence[PairedComparison]" = (),
    settings: "SettingDifferences | None" = None,
) -> list[str]:
    """Tables of metrics, of paired comparisons, and of settings that differ between runs."""
    from dynamicpo.reports.pages.comparisons import differences_table
    from dynamicpo.reports.pages.evaluation import settings_table
    from dynamicpo.reports.pages.metric_tables import metrics_table
    from dynamicpo.reports.pages.tables import text_table

    tables = []
    if metrics:
        tables.append(metrics_table(metrics))
    if comparisons:
        tables.append(differences_table(comparisons))
    if settings:
        tables.append(settings_table(settings))
    return _paragraphs([text_table(table) for table in tables])
