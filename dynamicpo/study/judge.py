"""The collapse study: HitRatio@1 and loss against the number of negatives, and a verdict (arXiv 2605.00327)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynamicpo.core.config import StudyConfig
from dynamicpo.core.records.manifest import Manifest, config_dict, fingerprint, write_json
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.evaluation.saved import read_sources, warnings_of
from dynamicpo.reports.pages.study import study_figure, study_markdown, study_page
from dynamicpo.study.cells import baseline_hits, read_cells, read_sft
from dynamicpo.study.report import counts, make_report, plain
from dynamicpo.study.verdict import judge_all


def judge_collapse(
    baselines: Path, evaluations: Sequence[Path], output: Path, config: StudyConfig
) -> Manifest:
    """Say whether more negatives made ranking worse while the loss fell, and whether DynamicPO prevented it.

    Args:
        baselines: Evaluation of the SFT model that all cells started from, and of the baselines.
        evaluations: Evaluations of the cells: models that differ in loss, DynamicPO, number of negatives and seed
            alone.
        output: Folder to make: `study.json`, `verdict.md`, `figure.svg`, `report.html`.
        config: What counts as a collapse.

    Returns:
        The manifest; `counts` holds the figures of every kind of cell, and the numbers of collapses and looks.

    Raises:
        DataError: Evaluations that can't stand side by side, or cells that differ in more than they may.
    """
    sources = read_sources([baselines, *evaluations], "study")
    inputs = {"baselines": sources[0].fingerprint}
    inputs["evaluations"] = fingerprint(sorted(source.fingerprint for source in sources[1:]))
    manifest = Manifest("judge_collapse", config_dict(config), inputs)
    if (existing := finished(output, manifest)) is not None:
        return existing
    found = read_cells(evaluations, sources[1:])
    sft = read_sft(baselines, sources[0], found.adapter)
    study = judge_all({**found.cells, **sft}, found.users, found.seeds, config)
    protocol: dict[str, Any] = sources[0].extra["protocol"]
    facts = {
        "protocol": protocol,
        "test": manifest.config,
        "seeds": found.seeds,
        "cells": found.shared,
    }
    with stage_output(output, manifest) as folder:
        report = make_report(
            study, baseline_hits(baselines, sources[0]), facts, sorted(warnings_of(sources))
        )
        write_json(folder / "study.json", {"protocol": protocol, **plain(study)})
        (folder / "report.html").write_text(study_page(report), encoding="utf-8")
        (folder / "figure.svg").write_text(study_figure(report), encoding="utf-8")
        (folder / "verdict.md").write_text(study_markdown(report), encoding="utf-8")
        manifest.counts = counts(study)
        manifest.extra = {"protocol": protocol, "warnings": list(report.warnings)}
    return manifest
