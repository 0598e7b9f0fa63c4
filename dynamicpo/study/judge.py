"""The collapse study: HitRatio@1 and loss against the number of negatives (arXiv 2605.00327)."""

from collections.abc import Sequence
from pathlib import Path

from dynamicpo.core.config import StudyConfig
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.records.manifest import Manifest, config_dict, fingerprint, write_json
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.evaluation.saved import read_sources, warnings_of
from dynamicpo.reports.pages.study import StudyReport, study_markdown, study_overview, study_page
from dynamicpo.study.cells import baseline_hits, read_cells, read_sft
from dynamicpo.study.measurements import flat_counts, study_as_json
from dynamicpo.study.report import make_report
from dynamicpo.study.scorecard import study_scorecard
from dynamicpo.study.sentences import verdict_in_words
from dynamicpo.study.verdict import judge_all


def judge_collapse(
    baselines: Path, evaluations: Sequence[Path], output: Path, config: StudyConfig
) -> Manifest:
    """Judge if ranking got worse with more negatives while the loss fell, and DynamicPO's effect.

    Args:
        baselines: Evaluation of the SFT model that all cells started from, and of the baselines.
        evaluations: Evaluations of the cells: models that differ in loss, DynamicPO, number of
            negatives and seed alone.
        output: Folder to make: `study.json`, `verdict.md`, `figure.svg`, `report.html`.
        config: What counts as a collapse.

    Returns:
        The manifest; `counts` holds the figures of every kind of cell, and the numbers of collapses
        and comparisons, `extra` the scorecard.

    Raises:
        DataError: Evaluations that can't stand side by side, or cells that differ in more than they
            may.
    """
    sources = read_sources([baselines, *evaluations], "study")
    manifest = _manifest(sources, config)
    if (existing := finished(output, manifest)) is not None:
        return existing
    trained = read_cells(evaluations, sources[1:])
    sft = read_sft(baselines, sources[0], trained.adapter)
    study = judge_all({**trained.cells, **sft}, trained.users, trained.seeds, config)
    protocol: JsonObject = sources[0].extra["protocol"]
    settings: JsonObject = {
        "protocol": protocol,
        "test": manifest.config,
        "seeds": trained.seeds,
        "cells": trained.shared,
    }
    baseline_ratios = baseline_hits(baselines, sources[0])
    # Sorted, for the same bytes in whatever order the evaluations come.
    warnings = sorted(warnings_of(sources))
    report = make_report(study, baseline_ratios, settings, warnings)
    with stage_output(output, manifest) as folder:
        numbers = study_as_json(study)
        words = verdict_in_words(study)
        write_json(folder / "study.json", {"protocol": protocol, **numbers, "sentences": words})
        _write_report(folder, report)
        manifest.counts = flat_counts(study)
        manifest.extra = {
            "protocol": protocol,
            "warnings": list(report.warnings),
            "scorecard": study_scorecard(study),
        }
    return manifest


def _manifest(sources: Sequence[Manifest], config: StudyConfig) -> Manifest:
    baselines, *evaluations = sources
    # Sorted for the same reason: another order is no other study.
    fingerprints = sorted(source.fingerprint for source in evaluations)
    inputs = {"baselines": baselines.fingerprint, "evaluations": fingerprint(fingerprints)}
    return Manifest("judge_collapse", config_dict(config), inputs)


def _write_report(folder: Path, report: StudyReport) -> None:
    files = {
        "report.html": study_page(report),
        "figure.svg": study_overview(report),
        "verdict.md": study_markdown(report),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
