"""Metrics of generated answers: the candidate that an answer names, and how often it is right."""

import unicodedata
from collections.abc import Sequence

from numpy.typing import ArrayLike

from dynamicpo.core.arrays import IntArray
from dynamicpo.core.errors import DataError, ShapeError
from dynamicpo.metrics.arrays import TensorLike, as_array

INVALID = -1  # an answer that names no candidate, or more than one


def normalised(text: str) -> str:
    """A title or an answer without case, repeated spaces, outer quotes and full stops.

    Compatibility forms, such as full-width letters, become plain ones.
    """
    # NFKC before casefold: some compatibility forms have a case only once they are plain.
    plain = unicodedata.normalize("NFKC", text)
    words = plain.casefold().split()
    return " ".join(words).strip(" .\"'`\u2018\u2019\u201c\u201d")


def named_candidate(answer: str, titles: Sequence[str]) -> int:
    """Index of the one title that equals the answer after normalisation; -1 for none or several."""
    wanted = normalised(answer)
    # An empty answer would name a candidate without a title.
    if not wanted:
        return INVALID
    matches = [index for index, title in enumerate(titles) if normalised(title) == wanted]
    return _only(matches)


def substring_candidate(answer: str, titles: Sequence[str]) -> int:
    """Index of the one title that occurs anywhere in the answer; -1 for none or several.

    This is the published rule. An answer that holds a title and a shorter one inside it ("Alien" in
    "Aliens") names two, and is not valid.
    """
    text = _lower(answer)
    matches = [index for index, title in enumerate(titles) if _lower(title) in text]
    return _only(matches)


def answer_metrics(
    named: ArrayLike | TensorLike, target_index: ArrayLike | TensorLike, suffix: str = ""
) -> dict[str, float]:
    """ValidRatio, and HitRatio@1 over all rows and over valid rows only (which are not comparable).

    Args:
        named: The candidate that each answer names, -1 where it is not valid. Shape (N,).
        target_index: The target's index among the candidates. Shape (N,).
        suffix: Appended to the names, such as "_substring" for the published rule.

    Returns:
        `valid_ratio`, `generated_hit_ratio_at_1`, `generated_hit_ratio_at_1_valid_rows` (0 without
        a valid row).

    Raises:
        DataError: No rows.
        ShapeError: The lengths differ.
    """
    chosen = as_array(named)
    targets = as_array(target_index)
    _check_answers(chosen, targets)
    is_valid = chosen != INVALID
    is_hit = is_valid & (chosen == targets)
    # Without a valid row the ratio is 0, and not NaN, which JSON does not have.
    num_valid = max(is_valid.sum(), 1)
    return {
        f"valid_ratio{suffix}": float(is_valid.mean()),
        f"generated_hit_ratio_at_1{suffix}": float(is_hit.mean()),
        f"generated_hit_ratio_at_1_valid_rows{suffix}": float(is_hit.sum() / num_valid),
    }


def _lower(text: str) -> str:
    return text.strip().lower()


def _only(matches: Sequence[int]) -> int:
    return matches[0] if len(matches) == 1 else INVALID


def _check_answers(named: IntArray, targets: IntArray) -> None:
    if named.shape != targets.shape or named.ndim != 1:
        raise ShapeError(
            f"named: must have one entry a row, {targets.shape}, got {named.shape}. Give both (N,)."
        )
    if not len(named):
        raise DataError("named: needs at least one row, got none. Evaluate a split that has rows.")
