"""Attackers on candidate lists: one that is blind to the history, and one that sees nothing else.

The blind one learns from the lists of rows whose targets it knows: how often an item is the target
and how often it is listed, at which position the target stands, which items are listed with it, and
which list belongs to which target.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import BoolArray, FloatArray, IntArray, KeyArray
from dynamicpo.negatives.audit.candidate_lists import CandidateLists

CountLookup = Callable[[IntArray], IntArray]

_DENSE = 2**25  # numbers up to which counts lie in a plain array, of 256 MiB
_SPARSE = 2**62  # any size that is too large for an array
_FIT_STEPS = 30


def attack(known: CandidateLists, attacked: CandidateLists) -> float:
    """Measure the attacker's hit ratio on `attacked`.

    Its counts come from one half of `known`, the weights of its features from the other half: on
    the rows that were counted, each feature would look better than it is on new rows. Then it
    counts all.

    Args:
        known: Rows to learn from.
        attacked: Rows to guess.

    Returns:
        The share of rows whose target has the highest score; ties share a hit.
    """
    row_numbers = np.arange(len(known.targets))
    is_counted = row_numbers % 2 == 0
    counted = _select(known, is_counted)
    fitted = _select(known, ~is_counted)
    weights = _fit(
        features=_features(counted, fitted.candidates),
        is_target=fitted.is_target,
    )
    scores = _features(known, attacked.candidates) @ weights
    best_scores = scores.max(axis=1, keepdims=True)
    return _hit_ratio(scores == best_scores, attacked.is_target)


def attack_by_history(_known: CandidateLists, attacked: CandidateLists) -> float:
    """Measure the hit ratio of an attacker who picks a candidate that the history holds.

    Where negatives leave out the history and targets do not, it always wins.

    Args:
        _known: Nothing is learnt from other rows.
        attacked: Rows to guess.

    Returns:
        The share of rows whose target is picked; one of several is picked at random, and any
        candidate where the history holds none.
    """
    is_in_history = attacked.is_in_history
    has_any = is_in_history.any(axis=1, keepdims=True)
    return _hit_ratio(is_in_history | ~has_any, attacked.is_target)


def _hit_ratio(is_best: BoolArray, is_target: BoolArray) -> float:
    is_hit = is_best & is_target
    hits = is_hit.sum(axis=1)
    num_best = is_best.sum(axis=1)
    # As if one of the best were guessed at random.
    total = hits @ (1 / num_best)
    return float(total / len(hits))


def _select(rows: CandidateLists, mask: BoolArray) -> CandidateLists:
    return replace(
        rows,
        targets=rows.targets[mask],
        candidates=rows.candidates[mask],
    )


def _features(known: CandidateLists, candidates: IntArray) -> FloatArray:
    """Describe each candidate by what the lists of `known` tell of it. Shape (N, A, 6)."""
    _, width = candidates.shape
    count_target = _counter(known.targets, known.num_items)
    count_candidate = _counter(known.candidates, known.num_items)
    as_target = count_target(candidates)
    as_candidate = count_candidate(candidates)
    at_position, item_at_position = _position_counts(known, candidates)
    same_list = _same_list_counts(known, candidates)
    # Shrunk towards 1 / A, the share of an item of which nothing is known.
    target_share = (as_target + 1) / (as_candidate + _num_positions(known, candidates))
    # The pairs of a target with itself are as many as its rows, and say nothing.
    listed_together = _pair_counts(known, candidates) - as_target
    together_per_row = listed_together / np.maximum(as_target, 1)
    mean_together = together_per_row / max(width - 1, 1)
    # Logarithms of counts: twice as often is as much evidence at 1 as it is at 100.
    features = [
        np.log1p(as_target),
        np.log(target_share),
        np.log1p(at_position),
        np.log1p(item_at_position),
        mean_together,
        np.log1p(same_list),
    ]
    return np.stack(features, axis=2)


def _position_counts(known: CandidateLists, candidates: IntArray) -> tuple[IntArray, IntArray]:
    """Count targets at each candidate's position: of any item, and of the very item."""
    num_positions = _num_positions(known, candidates)
    target_positions = known.is_target.argmax(axis=1)
    _, width = candidates.shape
    positions = np.broadcast_to(np.arange(width), candidates.shape)
    count_position = _counter(target_positions, num_positions)
    count_item_position = _counter(
        known.targets * num_positions + target_positions,
        size=known.num_items * num_positions,
    )
    at_position = count_position(positions)
    item_at_position = count_item_position(candidates * num_positions + positions)
    return at_position, item_at_position


def _num_positions(known: CandidateLists, candidates: IntArray) -> int:
    """The length of the longer lists."""
    known_width: int = known.candidates.shape[1]
    width: int = candidates.shape[1]
    return max(known_width, width)


def _pair_counts(known: CandidateLists, candidates: IntArray) -> IntArray:
    """Count how often the row's candidates were listed where the candidate was the target."""
    num_items = known.num_items
    targets = known.targets[:, None]
    count_pair = _counter(
        targets * num_items + known.candidates,
        size=num_items * num_items,
    )
    first_of_pairs = candidates * num_items
    total = np.zeros_like(candidates)
    # Column by column: all pairs at once would take A times the memory.
    for second in candidates.T:
        total += count_pair(first_of_pairs + second[:, None])
    return total


def _same_list_counts(known: CandidateLists, candidates: IntArray) -> IntArray:
    """Count how often the very same list, in any order, had the candidate as its target."""
    num_known = len(known.candidates)
    known_hashes = _set_hashes(known.candidates)
    hashes = np.concatenate([known_hashes, _set_hashes(candidates)])
    # Hashes of 64 bits leave no room for an item beside them, their ranks do.
    _, list_ids = np.unique(hashes, return_inverse=True)
    known_ids, ids = np.split(list_ids, [num_known])
    count_pair = _counter(
        known_ids * known.num_items + known.targets,
        size=_SPARSE,
    )
    first_of_pairs = ids[:, None] * known.num_items
    return count_pair(first_of_pairs + candidates)


def _set_hashes(lists: IntArray) -> KeyArray:
    """Hash each list as a set: a sum of the items' hashes does not depend on their order."""
    item_hashes = random_keys.bits(lists.astype(np.uint64), 0)
    return np.asarray(item_hashes.sum(axis=1, dtype=np.uint64))


def _counter(values: IntArray, size: int) -> CountLookup:
    """Count the integers in [0, size) among the values, to be looked up by integer."""
    if size <= _DENSE:
        dense_counts = np.bincount(values.ravel(), minlength=size)
        return lambda queries: dense_counts[queries]
    distinct, counts = np.unique(values, return_counts=True)

    def look_up(queries: IntArray) -> IntArray:
        index = np.searchsorted(distinct, queries)
        # Numbers above the largest have no index of their own.
        index = np.minimum(index, len(distinct) - 1)
        is_counted = distinct[index] == queries
        return np.where(is_counted, counts[index], 0)

    return look_up


def _fit(features: FloatArray, is_target: BoolArray) -> FloatArray:
    """Fit the weights of a conditional logistic regression, with a unit Gaussian prior.

    Every step uses the fixed bound on the curvature of Böhning (1992), so the likelihood never
    falls.
    """
    # Adding a constant to all candidates of a row changes no probability, so each row is centred.
    means = features.mean(axis=1, keepdims=True)
    centred = features - means
    _, _, num_features = centred.shape
    outer_products = np.einsum("naf,nag->fg", centred, centred)
    curvature_bound = outer_products / 2 + np.eye(num_features)
    # Boolean indexing takes the features of each row's target.
    observed = centred[is_target].sum(axis=0)
    weights = np.zeros(num_features)
    for _ in range(_FIT_STEPS):
        probabilities = _softmax(centred @ weights)
        expected = np.einsum("na,naf->f", probabilities, centred)
        gradient = observed - expected - weights
        weights = weights + np.linalg.solve(curvature_bound, gradient)
    return weights


def _softmax(scores: FloatArray) -> FloatArray:
    # The largest is taken off first, so that no exponential overflows.
    largest = scores.max(axis=1, keepdims=True)
    exponentials = np.exp(scores - largest)
    totals = exponentials.sum(axis=1, keepdims=True)
    return np.asarray(exponentials / totals)
