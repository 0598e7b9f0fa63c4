"""The history-blind attacker and the redrawn lists."""

import numpy as np
import pytest

from dynamicpo.core import random_keys
from dynamicpo.core.errors import DataError
from dynamicpo.negatives.audit import attacker
from dynamicpo.negatives.audit.attacker import attack
from dynamicpo.negatives.audit.candidate_lists import CandidateLists, redraw


def lists(num_rows: int, num_items: int, width: int, seed: int = 0) -> CandidateLists:
    """Uniform targets and lists; a row excludes its target only."""
    keys = random_keys.keys(seed, "test", [str(row) for row in range(num_rows)])
    target = random_keys.integers(keys, 7, num_items)
    excluded = np.arange(num_rows) * num_items + target
    return redraw(
        CandidateLists(
            keys, target, np.zeros((num_rows, width), dtype=np.int64), excluded, num_items
        ),
        99,
    )


def seeded_by_target(rows: CandidateLists) -> CandidateLists:
    """The published mistake: the target's id is the seed, so one target has one list."""
    first = {
        int(target): rows.candidates[row] for row, target in reversed(list(enumerate(rows.targets)))
    }
    return CandidateLists(
        rows.keys,
        rows.targets,
        np.stack([first[int(t)] for t in rows.targets]),
        rows.excluded,
        rows.num_items,
    )


def test_redrawn_lists_are_distinct_hold_the_target_once_and_leave_out_what_is_excluded() -> None:
    rows = lists(500, 30, 10)
    assert all(len({*row}) == 10 for row in rows.candidates.tolist())
    assert ((rows.candidates == rows.targets[:, None]).sum(axis=1) == 1).all()
    excluded = np.unique(
        np.concatenate([rows.excluded, np.arange(500) * 30 + (rows.targets + 1) % 30])
    )
    again = redraw(CandidateLists(rows.keys, rows.targets, rows.candidates, excluded, 30), 3)
    assert not (again.candidates == (rows.targets[:, None] + 1) % 30).any()


def test_redrawn_lists_are_uniform_over_items_and_places() -> None:
    rows = lists(6000, 12, 4)
    positions = np.bincount((rows.candidates == rows.targets[:, None]).argmax(axis=1), minlength=4)
    listed = np.bincount(rows.candidates.ravel(), minlength=12)
    assert np.abs(positions / 6000 - 1 / 4).max() < 0.02
    assert np.abs(listed / 24000 - 1 / 12).max() < 0.01


def test_a_redraw_depends_on_the_row_and_the_number_alone() -> None:
    rows = lists(50, 40, 8)
    some = np.array([3, 17, 41])
    names = np.repeat(np.arange(3), 1) * 40 + rows.targets[some]
    part = redraw(
        CandidateLists(rows.keys[some], rows.targets[some], rows.candidates[some], names, 40), 5
    )
    assert (part.candidates == redraw(rows, 5).candidates[some]).all()
    assert (redraw(rows, 6).candidates != redraw(rows, 5).candidates).any()


def test_a_catalogue_too_small_for_a_redraw_is_an_error() -> None:
    with pytest.raises(DataError, match="5 candidates a row can't be redrawn from 4 items"):
        lists(3, 4, 5)


def test_lists_seeded_by_the_target_are_found_and_uniform_ones_are_not() -> None:
    known, attacked = lists(1500, 300, 20, seed=1), lists(500, 300, 20, seed=2)
    assert attack(known, attacked) < 0.09
    both = seeded_by_target(
        CandidateLists(
            np.concatenate([known.keys, attacked.keys]),
            np.concatenate([known.targets, attacked.targets]),
            np.concatenate([known.candidates, attacked.candidates]),
            np.arange(2000) * 300,
            300,
        )
    )
    halves = [
        CandidateLists(
            both.keys[part], both.targets[part], both.candidates[part], both.excluded[part], 300
        )
        for part in (slice(1500), slice(1500, 2000))
    ]
    assert attack(*halves) > 0.95


def test_a_target_that_always_stands_first_is_found() -> None:
    known, attacked = lists(400, 300, 10, seed=1), lists(200, 300, 10, seed=2)
    for rows in (known, attacked):
        order = np.argsort(rows.candidates != rows.targets[:, None], axis=1, kind="stable")
        rows.candidates[:] = np.take_along_axis(rows.candidates, order, axis=1)
    assert attack(known, attacked) == 1.0


def test_an_attacker_who_knows_nothing_is_at_chance() -> None:
    known = lists(2, 1000, 4, seed=1)
    attacked = lists(3000, 1000, 4, seed=2)
    assert abs(attack(known, attacked) - 0.25) < 0.02


def test_counts_in_a_plain_array_and_by_search_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    known, attacked = lists(300, 60, 10, seed=1), lists(100, 60, 10, seed=2)
    plain = attack(known, attacked)
    monkeypatch.setattr(attacker, "_DENSE", 0)
    assert attack(known, attacked) == plain
