"""A study's measurements: each kind of cell over its seeds, as flat counts, and as JSON."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.json_values import JsonObject
from dynamicpo.metrics.intervals import LEVEL
from dynamicpo.study.contrasts import Cells, Contrast
from dynamicpo.study.kinds import SFT, VARIANT_NAMES, Kind
from dynamicpo.study.verdict import Study, Verdict

HIT_RATIO = "hit_ratio_at_1"


class SeedMean(NamedTuple):
    """A mean over seeds and its 95 % interval; NaN bounds for one seed."""

    mean: float
    low: float
    high: float


NOT_MEASURED = SeedMean(math.nan, math.nan, math.nan)


def mean_over_seeds(values: FloatArray) -> SeedMean:
    """The mean over seeds, with its interval by the t distribution: seeds are few."""
    mean = float(values.mean())
    num_seeds = len(values)
    if num_seeds == 1:
        return SeedMean(mean, math.nan, math.nan)
    t = stats.t.ppf((1 + LEVEL) / 2, num_seeds - 1)
    deviation = values.std(ddof=1)
    reach = float(t * deviation / math.sqrt(num_seeds))
    return SeedMean(mean, mean - reach, mean + reach)


def measurements(cells: Cells) -> Mapping[str, FloatArray]:
    """Every measure of the cells of one kind. Shape (S,) each."""
    return {HIT_RATIO: np.asarray(cells.hits.mean(axis=1)), **cells.figures}


def mean_hit_ratio(cells: Cells) -> float:
    """HitRatio@1 over all seeds and rows."""
    return float(cells.hits.mean())


def flat_counts(study: Study) -> dict[str, float]:
    """Means of every kind of cell, and the numbers of collapses, preventions and comparisons."""
    counts: dict[str, float] = {}
    for kind, cells in study.cells.items():
        # SFT comes last, under a name without variant and K.
        if kind == SFT:
            continue
        prefix = metric_prefix(kind)
        for name, values in measurements(cells).items():
            counts[f"{prefix}_{name}"] = float(values.mean())
    counts[f"sft_{HIT_RATIO}"] = mean_hit_ratio(study.cells[SFT])
    counts["collapsed"] = sum(verdict.collapsed for verdict in study.verdicts)
    outcomes = [verdict.outcome for verdict in study.verdicts]
    counts["prevented"] = outcomes.count("prevented")
    # Comparisons, under the name that the metric has had from the start.
    counts["looks"] = len(study.contrasts)
    return counts


def metric_prefix(kind: Kind) -> str:
    """A kind in the names of metrics: `dmpo_dynamicpo_k19`; `sft`."""
    if kind == SFT:
        return SFT.loss
    return f"{kind.loss}_{VARIANT_NAMES[kind.variant]}_k{kind.num_negatives}"


def study_as_json(study: Study) -> JsonObject:
    """All numbers of a study: of its cells, its comparisons and its verdicts."""
    # Every seed's number is there, so that others can run a test of their choice.
    cells = [_cells_as_json(kind, cells) for kind, cells in study.cells.items()]
    return {
        "seeds": list(study.seeds),
        "cells": cells,
        "comparisons": [_contrast_as_json(entry) for entry in study.contrasts],
        "verdicts": [_verdict_as_json(verdict) for verdict in study.verdicts],
    }


def _cells_as_json(kind: Kind, cells: Cells) -> JsonObject:
    content: JsonObject = dict(kind._asdict())
    for name, values in measurements(cells).items():
        content[name] = [float(value) for value in values]
    return content


def _contrast_as_json(entry: Contrast) -> JsonObject:
    return {**entry._asdict(), "a": entry.a._asdict(), "b": entry.b._asdict()}


def _verdict_as_json(verdict: Verdict) -> JsonObject:
    changes = {
        "fall": verdict.fall,
        "gain": verdict.gain,
        "own": verdict.change_with_dynamicpo,  # the name that files have
    }
    content: JsonObject = {
        "objective": verdict.objective,
        "collapsed": verdict.collapsed,
        "outcome": verdict.outcome,
    }
    for name, entry in changes.items():
        content[name] = _contrast_as_json(entry) if entry else None
    return content
