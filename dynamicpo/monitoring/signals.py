"""Signals of a model: what the scores of a row's candidates say of it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.config import DriftConfig
from dynamicpo.monitoring.windows import Window


class ListedScores(NamedTuple):
    """Scores of each row's candidates.

    Attributes:
        target: Of the target; NaN where the model can't score it. Shape (N,).
        negatives: Of the others; -inf where the model does not know the item. Shape (N, A - 1).
    """

    target: FloatArray
    negatives: FloatArray


def window_scores(model: Path, window: Window, name: str, config: DriftConfig) -> ListedScores:
    """Score each row's candidates by a model.

    Args:
        model: The model's folder.
        window: The rows.
        name: The window's name in messages.
        config: What the check allows the model's folder.

    Raises:
        DataError: The model can't be read, or has a score for no row.
    """
    # Here, because torch and transformers take seconds to import, for nothing without a model.
    from dynamicpo.models.backbones import permissions_of
    from dynamicpo.monitoring.model_signals import score_window

    return score_window(model, window, name, permissions_of(config))


def signals_of(scores: ListedScores) -> pd.DataFrame:
    """The signals of scored candidates."""
    target = scores.target
    negatives = scores.negatives
    best = negatives.max(axis=1)
    with np.errstate(invalid="ignore"):
        margins = target - best
    is_better = negatives > target[:, None]
    is_tied = negatives == target[:, None]
    num_equal = 1 + is_tied.sum(axis=1)
    # Also false where the target has no score: it comes last.
    is_best = (target >= best) & ~is_better.any(axis=1)
    hits = np.where(is_best, 1 / num_equal, 0.0)
    # Nothing is known of a row without any score.
    is_unknown = np.isnan(best)
    columns = {
        "chosen_score": target,
        "margin": np.where(np.isfinite(margins), margins, np.nan),
        "hit": np.where(is_unknown, np.nan, hits),
    }
    return pd.DataFrame(columns)
