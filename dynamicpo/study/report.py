"""A study's figures for its page, for JSON and for KFP's metrics."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from dynamicpo.metrics.intervals import LEVEL
from dynamicpo.reports.charts.numbers import interval, number
from dynamicpo.reports.pages.study import StudyReport
from dynamicpo.reports.pages.tables import Cell, Table, p_value, signed
from dynamicpo.reports.training_log import RELATIVE
from dynamicpo.study import sentences
from dynamicpo.study.grid import kind_at
from dynamicpo.study.verdict import (
    LOSSES,
    SFT,
    VARIANTS,
    Cells,
    Contrast,
    Floats,
    Kind,
    Study,
    Verdict,
    is_clear,
    kind_name,
)

_HITS = "hit_ratio_at_1"
MEASURES = (_HITS, "final_loss", RELATIVE, "boundary_fraction")
_OUTCOMES = {
    "prevented": "prevents it",
    "softened": "softens it",
    "not prevented": "does not prevent it",
    "": "–",
}


def make_report(
    study: Study,
    baselines: Mapping[str, float],
    facts: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> StudyReport:
    """What the page shows.

    Args:
        study: What was measured.
        baselines: HitRatio@1 of the baselines.
        facts: Protocol, settings, seeds.
        warnings: Of the evaluations.
    """
    references = {"SFT": float(study.cells[SFT].hits.mean())}
    if "popularity" in baselines:
        references["popularity"] = baselines["popularity"]
    alone = (
        ["One seed only: intervals and p know nothing of how training varies."]
        if len(study.seeds) == 1
        else []
    )
    return StudyReport(
        headline=sentences.verdict_in_words(study),
        test=sentences.test_in_words(study.config, len(study.contrasts)),
        verdicts=_verdicts(study),
        curves={LOSSES[loss]: _curves(study, loss) for loss in study.objectives},
        references=references,
        cells=_cells(study),
        contrasts=_contrasts(study),
        facts={**facts, "baselines": baselines},
        warnings=[*warnings, *alone],
    )


def counts(study: Study) -> dict[str, Any]:
    """Flat figures: those of every kind of cell, and how many collapses, preventions and looks there are."""
    flat = {
        f"{loss}_{variant}_k{count}_{name}": float(values.mean())
        for (loss, variant, count), cells in study.cells.items()
        for name, values in _values(cells).items()
        if count
    }
    flat[f"sft_{_HITS}"] = float(study.cells[SFT].hits.mean())
    return {
        **flat,
        "collapsed": sum(verdict.collapsed for verdict in study.verdicts),
        "prevented": sum(verdict.outcome == "prevented" for verdict in study.verdicts),
        "looks": len(study.contrasts),
    }


def plain(study: Study) -> dict[str, Any]:
    """All numbers, as JSON holds them."""
    return {
        "seeds": list(study.seeds),
        "cells": [
            {
                **_named(kind),
                **{
                    name: [float(value) for value in values]
                    for name, values in _values(cells).items()
                },
            }
            for kind, cells in study.cells.items()
        ],
        "comparisons": [_contrast(entry) for entry in study.contrasts],
        "verdicts": [
            {
                "objective": verdict.objective,
                "collapsed": verdict.collapsed,
                "outcome": verdict.outcome,
                **{
                    name: _contrast(entry) if entry else None
                    for name, entry in (
                        ("fall", verdict.fall),
                        ("gain", verdict.gain),
                        ("own", verdict.own),
                    )
                },
            }
            for verdict in study.verdicts
        ],
        "sentences": sentences.verdict_in_words(study),
    }


def over_seeds(values: Floats) -> tuple[float, float, float]:
    """The mean over seeds and its 95 % interval by the t distribution; NaN bounds for one seed."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, math.nan, math.nan
    reach = float(
        stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    )
    return mean, mean - reach, mean + reach


def _values(cells: Cells) -> dict[str, Floats]:
    return {_HITS: np.asarray(cells.hits.mean(axis=1)), **cells.figures}


def _named(kind: Kind) -> dict[str, Any]:
    return dict(zip(("loss", "variant", "num_negatives"), kind, strict=True))


def _contrast(entry: Contrast) -> dict[str, Any]:
    return {**entry._asdict(), "a": _named(entry.a), "b": _named(entry.b)}


def _curves(
    study: Study, loss: str
) -> dict[str, dict[str, list[tuple[float, float, float, float]]]]:
    """For every measure and variant its points K, mean, low, high; the bounds are those over seeds."""
    counts = sorted({count for _, _, count in study.cells if count})
    curves: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
    for measure in MEASURES:
        curves[measure] = {
            VARIANTS[variant]: [
                (float(count), *over_seeds(_values(study.cells[kind])[measure]))
                for count in counts
                if (kind := kind_at(loss, variant, count)) in study.cells
            ]
            for variant in VARIANTS
            if any((loss, variant, count) in study.cells for count in counts)
        }
    return curves


def _verdicts(study: Study) -> Table:
    heads = [
        "objective",
        "from K",
        "to K",
        "HitRatio@1",
        "change",
        "p (Holm)",
        "loss, share of start",
        "verdict",
    ]
    rows = [_verdict(verdict, study) for verdict in study.verdicts]
    return Table([*heads, "DynamicPO there", "DynamicPO"], rows, (0, 7, 9))


def _verdict(verdict: Verdict, study: Study) -> list[Cell]:
    fall, gain = verdict.fall, verdict.gain
    before, after = study.cells[fall.b], study.cells[fall.a]
    shares = [number(float(cells.figures["loss_share"].mean())) for cells in (before, after)]
    if fall.p is None:
        word = "interval not available"
    else:
        word = "collapse" if verdict.collapsed else "no collapse"
    return [
        Cell(LOSSES[verdict.objective]),
        Cell(str(fall.b[2])),
        Cell(str(fall.a[2])),
        Cell(f"{number(float(before.hits.mean()))} → {number(float(after.hits.mean()))}"),
        _difference(fall, verdict.collapsed),
        Cell(p_value(_or_nan(fall.p_holm))),
        Cell(f"{shares[0]} → {shares[1]}"),
        Cell(word, strong=verdict.collapsed),
        _difference(gain, verdict.outcome == "prevented") if gain else Cell("–"),
        Cell(_OUTCOMES[verdict.outcome], strong=verdict.outcome == "prevented"),
    ]


def _cells(study: Study) -> Table:
    heads = [
        "",
        "K",
        "HitRatio@1",
        "final loss",
        "loss, share of start",
        "boundary gradient",
        "boundary gradient left",
    ]
    names = (
        _HITS,
        "final_loss",
        "loss_share",
        "boundary_gradient",
        RELATIVE,
        "boundary_fraction",
        "violation_share",
    )
    rows = []
    for kind, cells in study.cells.items():
        values = _values(cells)
        front = kind_name((kind[0], kind[1], 0))
        row = [Cell(front), Cell(str(kind[2]) if kind[2] else "–")]
        for name in names:
            mean, low, high = over_seeds(values[name]) if name in values else (math.nan,) * 3
            row.append(Cell(number(mean), interval(low, high)))
        rows.append(row)
    return Table([*heads, "boundary items", "rows with a violation"], rows)


def _contrasts(study: Study) -> Table:
    rows = [
        [
            Cell(kind_name(entry.a)),
            Cell(kind_name(entry.b)),
            _difference(entry, is_clear(entry, study.config)),
            Cell(p_value(_or_nan(entry.p))),
            Cell(p_value(_or_nan(entry.p_holm))),
            Cell(sentences.reading(entry, study.config)),
        ]
        for entry in study.contrasts
    ]
    return Table(["a", "b", "a less b", "p", "p (Holm)", "reading"], rows, (0, 1, 5))


def _difference(entry: Contrast, strong: bool) -> Cell:
    bounds = interval(_or_nan(entry.low), _or_nan(entry.high))
    return Cell(signed(entry.difference), bounds, strong)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
