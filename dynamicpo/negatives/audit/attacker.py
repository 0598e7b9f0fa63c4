"""A history-blind attacker on candidate lists.

It learns from the lists of rows whose targets it knows: how often an item is the target and how
often it is listed, at which position the target stands, which items are listed with it, and which
list belongs to which target.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import BoolArray, FloatArray, IntArray, KeyArray
from dynamicpo.negatives.audit.candidate_lists import CandidateLists

CountLookup = Callable[[IntArray], IntArray]

_DENSE = 2**25  # numbers up to which counts lie in a plain array, of 256 MiB
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
    is_counted = np.arange(len(known.targets)) % 2 == 0
    counted = _select(known, is_counted)
    fitted = _select(known, ~is_counted)
    weights = _fit(_features(counted, fitted.candidates), fitted.targets, fitted.candidates)
    scores = _features(known, attacked.candidates) @ weights
    is_best = scores == scores.max(axis=1, keepdims=True)
    is_target = attacked.candidates == attacked.targets[:, None]
    hits = (is_best & is_target).sum(axis=1)
    num_best = is_best.sum(axis=1)
    return float(hits @ (1 / num_best) / len(hits))


def _select(rows: CandidateLists, mask: BoolArray) -> CandidateLists:
    return replace(rows, targets=rows.targets[mask], candidates=rows.candidates[mask])


def _features(known: CandidateLists, candidates: IntArray) -> FloatArray:
    """Describe each candidate by what the lists of `known` tell of it. Shape (N, A, 6)."""
    width = candidates.shape[1]
    known_width = max(known.candidates.shape[1], width)
    as_target = _counter(known.targets, known.num_items)(candidates)
    as_candidate = _counter(known.candidates, known.num_items)(candidates)
    at_position, item_at_position = _position_counts(known, candidates)
    listed_together = _pair_counts(known, candidates) - as_target
    same_list = _same_list_counts(known, candidates)
    target_share = (as_target + 1) / (as_candidate + known_width)
    mean_together = listed_together / np.maximum(as_target, 1) / max(width - 1, 1)
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
    width = candidates.shape[1]
    num_positions = max(known.candidates.shape[1], width)
    target_positions = (known.candidates == known.targets[:, None]).argmax(axis=1)
    positions = np.broadcast_to(np.arange(width), candidates.shape)
    at_position = _counter(target_positions, num_positions)(positions)
    item_positions = known.targets * num_positions + target_positions
    item_counter = _counter(item_positions, known.num_items * num_positions)
    return at_position, item_counter(candidates * num_positions + positions)


def _pair_counts(known: CandidateLists, candidates: IntArray) -> IntArray:
    """Count how often the row's candidates were listed where the candidate was the target."""
    num_items = known.num_items
    pairs = known.targets[:, None] * num_items + known.candidates
    pair_counter = _counter(pairs, num_items * num_items)
    total = np.zeros_like(candidates)
    # Column by column: all pairs at once would take A times the memory.
    for column in range(candidates.shape[1]):
        total += pair_counter(candidates * num_items + candidates[:, [column]])
    return total


def _same_list_counts(known: CandidateLists, candidates: IntArray) -> IntArray:
    """Count how often the very same list, in any order, had the candidate as its target."""
    num_known = len(known.candidates)
    hashes = np.concatenate([_set_hashes(known.candidates), _set_hashes(candidates)])
    _, list_ids = np.unique(hashes, return_inverse=True)
    known_pairs = list_ids[:num_known] * known.num_items + known.targets
    pairs = list_ids[num_known:, None] * known.num_items + candidates
    return _counter(known_pairs, 2**62)(pairs)


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
        index = np.minimum(index, len(distinct) - 1)
        return np.where(distinct[index] == queries, counts[index], 0)

    return look_up


def _fit(features: FloatArray, targets: IntArray, candidates: IntArray) -> FloatArray:
    """Fit the weights of a conditional logistic regression, with a unit Gaussian prior.

    Every step uses the fixed bound on the curvature of Böhning (1992), so the likelihood never
    falls.
    """
    # Adding a constant to all candidates of a row changes no probability, so each row is centred.
    centred = features - features.mean(axis=1, keepdims=True)
    num_features = centred.shape[2]
    bound = np.einsum("naf,nag->fg", centred, centred) / 2 + np.eye(num_features)
    target_positions = (candidates == targets[:, None]).argmax(axis=1)
    observed = centred[np.arange(len(targets)), target_positions].sum(axis=0)
    weights = np.zeros(num_features)
    for _ in range(_FIT_STEPS):
        scores = centred @ weights
        probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        expected = np.einsum("na,naf->f", probabilities, centred)
        gradient = observed - expected - weights
        weights = weights + np.linalg.solve(bound, gradient)
    return weights
