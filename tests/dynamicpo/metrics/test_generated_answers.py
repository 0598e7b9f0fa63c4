"""Generated answers: the candidate that one names, and hit ratios over all and over valid rows."""

import numpy as np
import pytest

from dynamicpo.core.errors import DataError, ShapeError
from dynamicpo.metrics.generated_answers import (
    answer_metrics,
    named_candidate,
    normalised,
    substring_candidate,
)


def test_normalisation() -> None:
    assert normalised("  \u201cThe  Matrix\u201d. ") == normalised("the matrix") == "the matrix"
    assert normalised("\uff21lien") == "alien"
    assert normalised("Help!") != normalised("Help")


TITLES = ["Alien", "Aliens", "The Thing", "Heat (1995)"]


@pytest.mark.parametrize(
    ("answer", "exact", "substring"),
    [
        ("Alien", 0, 0),
        (" alien.\n", 0, 0),
        ("Aliens", 1, -1),  # holds "Alien" too
        ("I recommend The Thing", -1, 2),
        ("Heat", -1, -1),
        ("The Thing or Heat (1995)", -1, -1),
        ("", -1, -1),
        ("Predator", -1, -1),
    ],
)
def test_which_candidate_an_answer_names(answer: str, exact: int, substring: int) -> None:
    assert named_candidate(answer, TITLES) == exact
    assert substring_candidate(answer, TITLES) == substring


def test_an_answer_that_fits_two_candidates_names_none() -> None:
    assert named_candidate("Heat", ["Heat", "heat ", "Alien"]) == -1
    assert named_candidate(" ", ["", "Alien"]) == -1


def test_hit_ratio_over_all_and_over_valid_rows() -> None:
    # right, wrong, not valid, right, not valid
    metrics = answer_metrics([2, 1, -1, 0, -1], [2, 0, 1, 0, 0])
    assert metrics == pytest.approx(
        {
            "valid_ratio": 3 / 5,
            "generated_hit_ratio_at_1": 2 / 5,
            "generated_hit_ratio_at_1_valid_rows": 2 / 3,
        }
    )


def test_answers_without_a_valid_one() -> None:
    assert answer_metrics(np.array([-1, -1]), np.array([0, 1]), suffix="_substring") == {
        "valid_ratio_substring": 0,
        "generated_hit_ratio_at_1_substring": 0,
        "generated_hit_ratio_at_1_valid_rows_substring": 0,
    }
    with pytest.raises(DataError, match="named: needs at least one row, got none"):
        answer_metrics([], [])
    with pytest.raises(ShapeError, match=r"named: must have one entry a row, \(1,\), got \(2,\)"):
        answer_metrics([0, 1], [0])
