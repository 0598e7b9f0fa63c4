"""A history-blind attacker on candidate lists, and the same lists redrawn uniformly.

It learns from the lists of rows it knows: how often an item is the target and how often it is listed,
where the target stands, which items are listed with it, which list belongs to which target.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynamicpo.core import random_keys
from dynamicpo.core.errors import DataError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Lookup = Callable[[Integers], Integers]

_DENSE = 2**25  # item pairs up to which counts lie in a plain array
_MAX_ROUNDS = 1000
_FIT_STEPS = 30


@dataclass(frozen=True)
class Lists:
    """Rows as whole numbers.

    Attributes:
        keys: A random key for each row, (N,).
        target: The right item, in [0, num_items), (N,).
        lists: The candidates, (N, A).
        excluded: What a redraw may not list, as row * num_items + item, sorted.
        num_items: The size of the catalogue.
    """

    keys: NDArray[np.uint64]
    target: Integers
    lists: Integers
    excluded: Integers
    num_items: int


def attack(known: Lists, attacked: Lists) -> float:
    """The attacker's hit ratio on `attacked`: counts from one half of `known` and weights from the other, then all."""
    half = np.arange(len(known.target)) % 2 == 0
    weights = _fit(
        _features(_take(known, half), _take(known, ~half).lists),
        known.target[~half],
        known.lists[~half],
    )
    scores = _features(known, attacked.lists) @ weights
    best = scores == scores.max(axis=1, keepdims=True)
    return float(
        (best & (attacked.lists == attacked.target[:, None])).sum(axis=1)
        @ (1 / best.sum(axis=1))
        / len(best)
    )


def _take(rows: Lists, chosen: NDArray[np.bool_]) -> Lists:
    return replace(rows, target=rows.target[chosen], lists=rows.lists[chosen])


def _features(known: Lists, lists: Integers) -> Floats:
    """What the lists of `known` say of each candidate of `lists`. Shape (N, A, 6)."""
    size, width = known.num_items, max(known.lists.shape[1], lists.shape[1])
    as_target = _counter(known.target, size)(lists)
    as_listed = _counter(known.lists, size)(lists)
    place = (known.lists == known.target[:, None]).argmax(axis=1)
    places = np.broadcast_to(np.arange(lists.shape[1]), lists.shape)
    at_place = _counter(place, width)(places)
    item_at_place = _counter(known.target * width + place, size * width)(lists * width + places)
    pairs = _counter(known.target[:, None] * size + known.lists, size * size)
    together = (
        sum(pairs(lists * size + lists[:, [column]]) for column in range(lists.shape[1]))
        - as_target
    )
    same_list = _same_lists(known, lists)
    return np.stack(
        [
            np.log1p(as_target),
            np.log((as_target + 1) / (as_listed + width)),
            np.log1p(at_place),
            np.log1p(item_at_place),
            together / np.maximum(as_target, 1) / max(lists.shape[1] - 1, 1),
            np.log1p(same_list),
        ],
        axis=2,
    )


def _counter(values: Integers, size: int) -> Lookup:
    """How often each whole number in [0, size) is among the values."""
    if size <= _DENSE:
        counts = np.bincount(values.ravel(), minlength=size)
        return lambda asked: counts[asked]
    found, number = np.unique(values, return_counts=True)

    def look_up(asked: Integers) -> Integers:
        place = np.minimum(np.searchsorted(found, asked), len(found) - 1)
        return np.where(found[place] == asked, number[place], 0)

    return look_up


def _same_lists(known: Lists, lists: Integers) -> Integers:
    """How often the very same list, in any order, had this candidate as its target."""
    both = np.concatenate([_names(known.lists), _names(lists)])
    _, number = np.unique(both, return_inverse=True)
    ours, theirs = number[: len(known.lists)], number[len(known.lists) :]
    size = known.num_items
    return _counter(ours * size + known.target, 2**62)(theirs[:, None] * size + lists)


def _names(lists: Integers) -> NDArray[np.uint64]:
    """One number for each set of candidates."""
    names = random_keys.bits(lists.astype(np.uint64), 0).sum(axis=1, dtype=np.uint64)
    return np.asarray(names)


def _fit(features: Floats, target: Integers, lists: Integers) -> Floats:
    """Weights of a conditional logistic regression, with a unit Gaussian prior.

    Every step uses the fixed bound on the curvature of Böhning (1992), so the likelihood never falls.
    """
    centred = features - features.mean(axis=1, keepdims=True)
    size = centred.shape[2]
    bound = np.einsum("naf,nag->fg", centred, centred) / 2 + np.eye(size)
    chosen = centred[np.arange(len(target)), (lists == target[:, None]).argmax(axis=1)].sum(axis=0)
    weights = np.zeros(size)
    for _ in range(_FIT_STEPS):
        scores = centred @ weights
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        weights = weights + np.linalg.solve(
            bound, chosen - np.einsum("na,naf->f", shares, centred) - weights
        )
    return weights


def redraw(rows: Lists, number: int) -> Lists:
    """The same rows with lists drawn uniformly, keyed by row: what the row excludes is left out."""
    size, width = len(rows.target), rows.lists.shape[1]
    first = number * _MAX_ROUNDS * width
    row = np.arange(size)[:, None]
    lists = np.concatenate([rows.target[:, None], np.full((size, width - 1), -1)], axis=1)
    open_rows = np.arange(size)
    for turn in range(_MAX_ROUNDS):
        draws = random_keys.integers(
            rows.keys[open_rows, None],
            (first + turn * width + np.arange(width)).astype(np.uint64),
            rows.num_items,
        )
        pick = np.where(lists[open_rows] < 0, draws, lists[open_rows])
        lists[open_rows] = np.where(_bad(pick, row[open_rows], rows), -1, pick)
        open_rows = open_rows[(lists[open_rows] < 0).any(axis=1)]
        if not len(open_rows):
            break
    else:
        raise DataError(
            f"audit: {width} candidates a row can't be redrawn from {rows.num_items} items, too few are left "
            f"for {len(open_rows)} rows. Audit rows with shorter lists or a larger catalogue."
        )
    place = random_keys.integers(rows.keys, first + _MAX_ROUNDS * width - 1, width)
    order = (np.arange(width) - place[:, None]) % width
    return replace(rows, lists=np.take_along_axis(lists, order, axis=1))


def _bad(lists: Integers, row: Integers, rows: Lists) -> NDArray[np.bool_]:
    """Which draws repeat an earlier one of their row or are excluded. The first column, the target, never is."""
    order = np.argsort(lists, axis=1, kind="stable")
    ordered = np.take_along_axis(lists, order, axis=1)
    again = np.zeros(lists.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    asked = row * rows.num_items + lists
    place = np.minimum(np.searchsorted(rows.excluded, asked), len(rows.excluded) - 1)
    again[:, 1:] |= (rows.excluded[place] == asked)[:, 1:]
    return again
