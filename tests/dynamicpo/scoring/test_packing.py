"""Positions of every token, by hand."""

import pytest

from dynamicpo.core.errors import DataError, ShapeError
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.packing import batches, check_rows, pack, packed_length

ROWS = [Row([5, 6, 7], [[1, 2, 3], [4], [8, 9]]), Row([1], [[2], [3, 4], [5, 6]])]


def test_rows_lie_one_after_the_other_without_their_answers_last_tokens():
    packed = pack(ROWS, padded=False)
    assert packed.token_ids.tolist() == [[5, 6, 7, 1, 2, 8, 1, 3, 5]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 1]]
    assert packed.segment_ids.tolist() == [[0, 0, 0, 1, 1, 3, 0, 2, 3]]
    assert packed.row_index.tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 1]]
    assert packed.row_spans == [(0, 3, 6), (6, 7, 9)]
    assert packed.answer_starts == [[3, 5, 5], [7, 7, 8]]
    assert packed.shape == (2, 3)


def test_padded_rows_have_a_sequence_each():
    packed = pack(ROWS, padded=True)
    assert packed.token_ids.tolist() == [[5, 6, 7, 1, 2, 8], [1, 3, 5, 0, 0, 0]]
    assert packed.row_index.tolist() == [[0] * 6, [1, 1, 1, -1, -1, -1]]


def test_every_answer_token_is_predicted_from_the_token_before_it():
    packed = pack(ROWS, padded=False)
    assert packed.targets.tolist() == [1, 2, 3, 4, 8, 9, 2, 3, 4, 5, 6]
    assert packed.answer_index.tolist() == [0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 5]
    assert packed.prediction_positions[packed.prediction_index].tolist() == [
        2,
        3,
        4,
        2,
        2,
        5,
        6,
        6,
        7,
        6,
        8,
    ]
    assert packed.prediction_positions.tolist() == sorted(
        set(packed.prediction_positions.tolist())
    ), "the head sees each position once"


def test_one_token_answers_cost_the_prompt_alone():
    row = Row([1, 2, 3], [[4], [5], [6]])
    assert packed_length(row) == 3
    assert pack([row], padded=False).token_ids.tolist() == [[1, 2, 3]]


def test_batches_hold_every_row_once_within_the_budget():
    lengths = [7, 3, 9, 3, 40, 1, 8]
    for padded in (False, True):
        parts = batches(lengths, 20, padded=padded)
        assert sorted(index for part in parts for index in part) == list(range(7))
        for part in parts:
            sizes = [lengths[index] for index in part]
            used = len(sizes) * max(sizes) if padded else sum(sizes)
            assert used <= 20 or len(part) == 1
    assert batches(lengths, 20, padded=False) == [[4], [2, 6], [0, 1, 3, 5]]
    assert batches(lengths, 20, padded=True) == [[4], [2, 6], [0, 1], [3, 5]]


@pytest.mark.parametrize(
    ("rows", "kind", "words"),
    [
        ([], ShapeError, "need at least one"),
        ([Row([1], [])], ShapeError, "must have some answers"),
        (
            [Row([1], [[2]]), Row([1], [[2], [3]])],
            ShapeError,
            r"rows\[1\]: must have 1 answers.* got 2",
        ),
        ([Row([1], [[2]]), Row([], [[2]])], DataError, r"rows\[1\]: the prompt must have a token"),
        ([Row([1], [[2], []])], DataError, r"rows\[0\]: every answer must have a token"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(rows, kind, words):
    with pytest.raises(kind, match=words):
        check_rows(rows)
