"""How good a ranking, an answer, or a set of recommendations is. One relevant item a row; means over rows.

Ties get their expected value over all orders of the tied items, never the target first. A score of NaN ranks worst.
"""

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dynamicpo.core.errors import ConfigError, DataError, ShapeError

log = logging.getLogger(__name__)
Values = NDArray[Any] | torch.Tensor | Sequence[Any]
KS = (1, 3, 5, 10)
HEAD_SHARE = 0.2  # of the catalogue, by popularity; the rest is the long tail
INVALID = -1  # an answer that names no candidate, or more than one


class Ranks(NamedTuple):
    """Where each row's target stands: its rank is `better` + 1, or with `tied` others anything up to `tied` more.

    Attributes:
        better: Other candidates with a higher score. Shape (N,), int64.
        tied: Other candidates with the same score. Shape (N,), int64.
    """

    better: NDArray[np.int64]
    tied: NDArray[np.int64]


def target_ranks(scores: Values, target_index: Values, mask: Values | None = None) -> Ranks:
    """Count the candidates above and beside each row's target.

    A NaN never helps: as the target's score it is last and alone, as another candidate's it is below everything.

    Args:
        scores: One score a candidate, higher is better; NumPy or torch. Shape (N, A).
        target_index: The target's column. Shape (N,), whole numbers.
        mask: Which are candidates, the target always. Shape (N, A), bool; all, where there is none.

    Raises:
        DataError: No rows, or a target outside the candidates.
        ShapeError: The shapes do not fit.
    """
    scores, targets = _array(scores), _array(target_index)
    _check_ranking(scores, targets)
    own = scores[np.arange(len(scores)), targets][:, None]
    counted = np.ones(scores.shape, dtype=bool) if mask is None else _array(mask)
    better, tied = ((scores > own) & counted).sum(1), ((scores == own) & counted).sum(1) - 1
    missing = np.isnan(own[:, 0])
    return Ranks(np.where(missing, counted.sum(1) - 1, better), np.where(missing, 0, tied))


def row_metrics(
    better: Values, tied: Values, num_candidates: int, ks: Sequence[int] = KS
) -> dict[str, NDArray[np.float64]]:
    """Each row's hit ratio and NDCG at every K, and its reciprocal rank: what intervals are made from.

    Args:
        better: As in `Ranks`. Shape (N,).
        tied: As in `Ranks`. Shape (N,).
        num_candidates: Candidates of a row (of the shortest row, where they differ).
        ks: Cut-offs K.

    Returns:
        `hit_ratio_at_1`, `ndcg_at_5`, ..., `mrr`, each of shape (N,): means over the ranks that ties allow.

    Raises:
        ConfigError: A K below 1 or above the candidates.
    """
    wrong = [k for k in ks if not 1 <= k <= num_candidates]
    if wrong:
        raise ConfigError(
            f"ks: must be between 1 and the {num_candidates} candidates, got {wrong[0]}. Lower K."
        )
    first, ties = _array(better).astype(np.int64), _array(tied).astype(np.int64)
    rank = np.arange(1, int((first + ties).max(initial=0)) + 2)
    rows: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        rows[f"hit_ratio_at_{k}"] = _mean_over_ranks((rank <= k).astype(float), first, ties)
    for k in ks:
        rows[f"ndcg_at_{k}"] = _mean_over_ranks((rank <= k) / np.log2(rank + 1), first, ties)
    return rows | {"mrr": _mean_over_ranks(1 / rank, first, ties)}


def ranking_metrics(
    scores: Values, target_index: Values, ks: Sequence[int] = KS
) -> dict[str, float]:
    """HitRatio@K, NDCG@K and MRR of scored candidates with one target a row.

    Args:
        scores: One score a candidate, higher is better; NumPy or torch. Shape (N, A).
        target_index: The target's column. Shape (N,).
        ks: Cut-offs K, each at most A.

    Returns:
        Means over rows: `hit_ratio_at_1`, ..., `ndcg_at_1`, ..., `mrr`; and `num_nan_scores`, a count.

    Raises:
        ConfigError: A K below 1 or above the candidates.
        DataError: No rows, or a target outside the candidates.
        ShapeError: The shapes do not fit.
    """
    values = _array(scores)
    ranks = target_ranks(values, target_index)
    num_nan = int(np.isnan(values).sum())
    if num_nan:
        log.warning("ranking: %d of %d scores are NaN and rank worst", num_nan, values.size)
    rows = row_metrics(*ranks, values.shape[1], ks)
    return {name: float(row.mean()) for name, row in rows.items()} | {
        "num_nan_scores": float(num_nan)
    }


def normalised(text: str) -> str:
    """A title or an answer without case, compatibility forms, repeated spaces, outer quotes and full stops."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(words).strip(" .\"'`\u2018\u2019\u201c\u201d")


def named_candidate(answer: str, titles: Sequence[str]) -> int:
    """The place of the one title that equals the answer after normalisation, or -1 (none, or several)."""
    wanted = normalised(answer)
    places = [place for place, title in enumerate(titles) if normalised(title) == wanted]
    return places[0] if wanted and len(places) == 1 else INVALID


def substring_candidate(answer: str, titles: Sequence[str]) -> int:
    """The published rule: the place of the one title that occurs anywhere in the answer, or -1 (none, or several).

    An answer that holds a title and a shorter one inside it ("Alien" in "Aliens") names two, and is not valid.
    """
    text = answer.strip().lower()
    places = [place for place, title in enumerate(titles) if title.strip().lower() in text]
    return places[0] if len(places) == 1 else INVALID


def answer_metrics(named: Values, target_index: Values, suffix: str = "") -> dict[str, float]:
    """ValidRatio, and HitRatio@1 over all rows and over valid rows only (which are not comparable).

    Args:
        named: The candidate each answer names, -1 where it is not valid. Shape (N,).
        target_index: The target's place. Shape (N,).
        suffix: Appended to the names, such as "_substring" for the published rule.

    Returns:
        `valid_ratio`, `generated_hit_ratio_at_1`, `generated_hit_ratio_at_1_valid_rows` (0 without a valid row).

    Raises:
        DataError: No rows.
        ShapeError: The lengths differ.
    """
    chosen, targets = _array(named), _array(target_index)
    if chosen.shape != targets.shape or chosen.ndim != 1:
        raise ShapeError(
            f"named: must have one entry a row, {targets.shape}, got {chosen.shape}. Give both (N,)."
        )
    if not len(chosen):
        raise DataError("named: needs at least one row, got none. Evaluate a split that has rows.")
    valid = chosen != INVALID
    hits = valid & (chosen == targets)
    return {
        f"valid_ratio{suffix}": float(valid.mean()),
        f"generated_hit_ratio_at_1{suffix}": float(hits.mean()),
        f"generated_hit_ratio_at_1_valid_rows{suffix}": float(hits.sum() / max(valid.sum(), 1)),
    }


def beyond_accuracy(
    recommended: Values, popularity: Values, head_share: float = HEAD_SHARE
) -> Mapping[str, float]:
    """What the recommended items are like, whether right or not.

    Args:
        recommended: Items recommended, as places in the catalogue; any shape, at least one.
        popularity: Interactions of every item of the catalogue in the training split. Shape (I,).
        head_share: Share of the catalogue, by popularity, that is not long tail. Items as popular as the last of these
            belong to them too.

    Returns:
        `mean_popularity` (interactions per recommended item), `catalogue_coverage` (share of the catalogue recommended
        at least once), `gini` (inequality of how often items are recommended, over the whole catalogue: 0 equal,
        1 - 1/I a single item), `long_tail_share` (of the recommendations).

    Raises:
        DataError: Nothing recommended, or a place outside the catalogue.
    """
    items, counts = _array(recommended).reshape(-1), _array(popularity)
    if not len(items):
        raise DataError(
            "recommended: needs at least one item, got none. Evaluate a split that has rows."
        )
    if items.min() < 0 or items.max() >= len(counts):
        wrong = items.min() if items.min() < 0 else items.max()
        raise DataError(
            f"recommended: must be places in a catalogue of {len(counts)}, got {wrong}. Drop invalid ones."
        )
    times = np.sort(np.bincount(items, minlength=len(counts)))
    head = np.sort(counts)[::-1][: max(1, round(head_share * len(counts)))]
    weights = 2 * np.arange(1, len(times) + 1) - len(times) - 1
    return {
        "mean_popularity": float(counts[items].mean()),
        "catalogue_coverage": float((times > 0).mean()),
        "gini": float((weights * times).sum() / (len(times) * times.sum())),
        "long_tail_share": float((counts[items] < head[-1]).mean()),
    }


def _mean_over_ranks(
    gain: NDArray[np.float64], first: NDArray[np.int64], ties: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean gain over the ranks first + 1 .. first + ties + 1; `gain` starts at rank 1."""
    if not ties.any():
        return gain[first]
    sums = np.concatenate([[0.0], np.cumsum(gain)])
    return np.asarray((sums[first + ties + 1] - sums[first]) / (ties + 1))


def _array(values: Values) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return np.asarray(values.float() if values.dtype == torch.bfloat16 else values)
    return np.asarray(values)


def _check_ranking(scores: NDArray[Any], targets: NDArray[Any]) -> None:
    if scores.ndim != 2:
        raise ShapeError(
            f"scores: must be (N, A), got {scores.shape}. Give each row's candidates a column."
        )
    if targets.shape != scores.shape[:1]:
        raise ShapeError(
            f"target_index: must be ({len(scores)},) to fit scores, got {targets.shape}. Give one a row."
        )
    if not scores.size:
        raise DataError(
            f"scores: needs rows and candidates, got {scores.shape}. Evaluate a split that has rows."
        )
    if not np.issubdtype(targets.dtype, np.integer):
        raise DataError(
            f"target_index: must be whole numbers, got {targets.dtype}. Give each target's column."
        )
    outside = np.flatnonzero((targets < 0) | (targets >= scores.shape[1]))
    if len(outside):
        row = outside[0]
        raise DataError(
            f"target_index: row {row} must be in 0..{scores.shape[1] - 1}, got {targets[row]}. Score the target too."
        )
