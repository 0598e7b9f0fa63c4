"""What a row's negatives must not be: its history, its user's past, or all its user's items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dynamicpo.negatives.catalogue import Catalogue, Codes, Rows

_ALWAYS = -1


@dataclass(frozen=True)
class Exclusions:
    """Excluded titles by owner (a row, or a user), each from a moment on.

    A moment is twice a position: an item in the history of position p is known from 2p - 1 on, its target from 2p on.

    Attributes:
        keys: owner * num_texts + text, sorted.
        since: The moment from which each counts.
        by_moment: owner * span + since, sorted: to count what an owner has at a moment.
        span: Larger than any `since` + 1.
        num_texts: How many titles there are.
    """

    keys: Codes
    since: Codes
    by_moment: Codes
    span: int
    num_texts: int

    def contain(self, owners: Codes, moments: Codes, texts: Codes) -> NDArray[np.bool_]:
        """Whether each title is excluded for its owner at its moment (shapes broadcast)."""
        wanted = owners * self.num_texts + texts
        if not len(self.keys):
            return np.zeros(wanted.shape, dtype=bool)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        found: NDArray[np.bool_] = (self.keys[places] == wanted) & (self.since[places] < moments)
        return found

    def count(self, owners: Codes, moments: Codes) -> Codes:
        """How many titles are excluded for each owner at each moment."""
        start = np.searchsorted(self.by_moment, owners * self.span)
        end = owners * self.span + np.minimum(moments + 1, self.span)
        return np.searchsorted(self.by_moment, end) - start

    def pairs(self, owners: Codes, moments: Codes) -> tuple[Codes, Codes]:
        """All that is excluded for each owner at each moment: the places of the owners, and the titles."""
        start, end = (
            np.searchsorted(self.keys, (owners + step) * self.num_texts) for step in (0, 1)
        )
        number = end - start
        rows = np.repeat(np.arange(len(owners)), number)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(number) - number - start, number)
        counted = self.since[places] < moments[rows]
        return rows[counted], self.keys[places[counted]] % self.num_texts


def _exclusions(owners: Codes, texts: Codes, since: Codes, num_texts: int) -> Exclusions:
    keys = owners * num_texts + texts
    order = np.lexsort((since, keys))
    first = order[np.flatnonzero(np.diff(keys[order], prepend=-1))]
    span = int(since.max(initial=0)) + 3
    by_moment = np.sort(owners[first] * span + since[first] + 1)
    return Exclusions(keys[first], since[first], by_moment, span, num_texts)


def excluded_by(config: Mapping[str, Any]) -> str:
    """What the negatives of a configuration of negative sampling exclude; published lists leave out the history."""
    return (
        "window" if config.get("strategy") == "published" else str(config.get("exclude", "window"))
    )


def exclusions(
    exclude: str, splits: Sequence[Rows], catalogue: Catalogue
) -> tuple[Exclusions, list[Codes], list[Codes]]:
    """What is excluded, with the owner and the moment of each row of each split.

    Args:
        exclude: 'window', 'past' or 'all'. The past and all of a user are taken from the rows of all splits.
        splits: The rows of every split.
        catalogue: The items.
    """
    counts = [len(rows.example_ids) for rows in splits]
    starts = np.cumsum([0, *counts])
    if exclude == "window":
        owners = np.arange(starts[-1], dtype=np.int64)
    else:
        owners = pd.factorize(
            np.concatenate([np.asarray(rows.users, dtype=object) for rows in splits])
        )[0]
        owners = owners.astype(np.int64)
    moments = 2 * np.concatenate([rows.positions for rows in splits])
    history_rows = np.concatenate(
        [rows.history_rows + start for rows, start in zip(splits, starts[:-1], strict=True)]
    )
    history = np.concatenate([rows.history for rows in splits])
    targets = np.concatenate([rows.targets for rows in splits])
    owner, items, since = owners[history_rows], history, moments[history_rows] - 1
    if exclude != "window":
        owner, items, since = (
            np.concatenate(pair) for pair in ((owner, owners), (items, targets), (since, moments))
        )
    if exclude != "past":
        since = np.full_like(since, _ALWAYS)
    excluded = _exclusions(owner, catalogue.texts[items], since, catalogue.num_texts)
    return excluded, np.split(owners, starts[1:-1]), np.split(moments, starts[1:-1])
