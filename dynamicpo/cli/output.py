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
    from dynamicpo.runs.cluster.logs import RunLogs
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
    """A run's metrics, comparisons and verdict or decisions, and its page."""
    comparisons = result.get("comparisons", ())
    sentences = result.get("sentences", ())
    # A retraining may start nothing.
    tables = _tables(result["metrics"], comparisons) if result["metrics"] else []
    verdict = _paragraphs(sentences)
    report = Path(result["folder"]) / result["report"]
    # The path comes last, where scripts take it by `tail -1`.
    return [*tables, *verdict, str(report)]


def run_list_lines(result: RunList, arguments: argparse.Namespace) -> list[str]:
    """A line for each run."""
    runs = result["runs"]
    if not runs:
        where = arguments.host or arguments.folder
        return [f"no runs in {where}"]
    # One store that can't be read is the reason for many runs.
    problems = dict.fromkeys(run["problem"] for run in runs if "problem" in run)
    return [*map(_run_line, runs), *(f"no figures: {problem}" for problem in problems)]


def compile_lines(result: CompileResult, _: argparse.Namespace) -> list[str]:
    """The compiled file."""
    return [result["output"]]


def submit_lines(result: SubmitResult, _: argparse.Namespace) -> list[str]:
    """The figures of a run whose end was awaited, and its page."""
    lines = _figure_lines(result.get("hit_ratio_at_1", {}), result.get("problem", ""))
    # The link comes last, where scripts take it by `tail -1`.
    return [*lines, result["link"]]


def _figure_lines(hit_ratios: Mapping[str, float], problem: str) -> list[str]:
    figures = _hit_ratio_text(hit_ratios)
    return [line for line in (figures, problem and f"no figures: {problem}") if line]


def _hit_ratio_text(hit_ratios: Mapping[str, float]) -> str:
    texts = [f"{model} {value:.3f}" for model, value in hit_ratios.items()]
    return f"HitRatio@1: {', '.join(texts)}" if texts else ""


def log_lines(result: "RunLogs", _: argparse.Namespace) -> list[str]:
    """The state of the run and why it failed; a task's logs, where they were asked for."""
    from dynamicpo.runs.cluster.run_end import lines_of

    lines = [f"{result['name']}: {result['state']}"]
    lines += lines_of({"failures": result["failures"], "notes": result["notes"]})
    for log in result.get("logs", ()):
        lines += [f"==> {log['log']}", *log["text"].splitlines()]
    return [*lines, result["link"]]


def _run_line(run: "ListedRun") -> str:
    name = run["run"]
    state = run["state"] or "unknown"
    seconds = run["seconds"]
    duration = "–" if seconds is None else f"{seconds:.0f} s"
    parts = [f"{name:<36} {state:<10} {duration:>9}"]
    # A run on a cluster has an id and a name; one of this machine only the name of its folder.
    if "name" in run:
        parts.append(run["name"])
    hit_ratios = run["hit_ratio_at_1"]
    if hit_ratios:
        parts.append(_hit_ratio_text(hit_ratios))
    elif "link" in run:
        parts.append(run["link"])
    return "  ".join(parts)


def _paragraphs(sentences: Sequence[str]) -> list[str]:
    lines = []
    for sentence in sentences:
        lines.append(sentence)
        lines.append("")
    return lines


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

    # A run that failed early has no metrics, and one pipeline has no comparison.
    tables = []
    if metrics:
        tables.append(metrics_table(metrics))
    if comparisons:
        tables.append(differences_table(comparisons))
    if settings:
        tables.append(settings_table(settings))
    return _paragraphs([text_table(table) for table in tables])
