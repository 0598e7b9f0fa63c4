"""Scores of a window's candidates by a model, which its own signals are made of."""

from collections.abc import Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynamicpo.core.arrays import BoolArray
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import Row
from dynamicpo.models.backbones import NOTHING_PERMITTED, Permissions
from dynamicpo.models.checkpoints import LoadedModel, load_model
from dynamicpo.monitoring.signals import ListedScores
from dynamicpo.monitoring.windows import Window
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.scoring.shared_prefix import score_rows


class _ScorableRows(NamedTuple):
    """Rows that a model can score, and their indices in the window.

    Attributes:
        indices: Of the rows.
        rows: Each with the answers that stand in its list, the target first.
        knows_target: False where the first answer is no target.
        is_known: True for answers that stand for the candidate in their place.
    """

    indices: list[int]
    rows: list[Row]
    knows_target: list[bool]
    is_known: list[list[bool]]


def score_window(
    folder: Path, window: Window, name: str, permissions: Permissions = NOTHING_PERMITTED
) -> ListedScores:
    """Score each row's candidates: its target, and the others.

    Of a target that the model does not know there is no score; it counts as ranked behind all that
    the model knows. Of a row without a known item in its history there is nothing.

    Args:
        folder: A model's folder.
        window: The rows.
        name: The window's name in messages.
        permissions: What the command allows the model's folder.

    Raises:
        DataError: No row has a finite score.
    """
    loaded = load_model(folder, permissions)
    scores = _listed_scores(loaded, window, f"scoring the {name}")
    if not np.isfinite(scores.target).any():
        raise DataError(
            f"{folder}: must score at least one row of the {name}, but it has a usable "
            "score for none. Give the model that was trained on the reference."
        )
    return scores


def _listed_scores(loaded: LoadedModel, window: Window, label: str) -> ListedScores:
    scorable = _scorable_rows(loaded, window)
    num_rows = len(window.rows)
    num_negatives = _num_negatives(window)
    target = np.full(num_rows, np.nan)
    negatives = np.full((num_rows, num_negatives), np.nan)
    if scorable.rows:
        with loaded.execution_context():
            logps = score_rows(loaded.model, scorable.rows, label=label)
        scores = logps.numpy().astype(np.float64)
        is_known: BoolArray = np.array(scorable.is_known)
        known_scores = np.where(is_known, scores, -np.inf)
        first_scores = scores[:, 0]
        indices = scorable.indices
        target[indices] = np.where(scorable.knows_target, first_scores, np.nan)
        negatives[indices] = known_scores[:, 1:]
    return ListedScores(target, negatives)


def _num_negatives(window: Window) -> int:
    lengths = {len(candidates) for candidates in window.rows["candidates"].to_pylist()}
    if len(lengths) > 1:
        raise DataError(
            "drift: rows must have equally many candidates for a model's signals, got "
            f"{min(lengths)} to {max(lengths)}. Leave the model out, or sample them again."
        )
    return lengths.pop() - 1


def _scorable_rows(loaded: LoadedModel, window: Window) -> _ScorableRows:
    """Encode the rows without the items that the model does not know.

    New items are what drift is about, so they must not be an error.
    """
    prompts = Prompts(loaded.tokenizer, window.items, loaded.settings)
    known = _known_items(loaded, window)
    scorable = _ScorableRows([], [], [], [])
    columns = ["example_id", "history", "target", "candidates"]
    rows = window.rows.select(columns).to_pylist()
    for index, row in enumerate(rows):
        history = [item for item in row["history"] if item in known]
        listed = _target_first(row["candidates"], row["target"])
        is_known = [item in known for item in listed]
        if not history or not any(is_known):
            continue
        # Rows must have equally many answers: some known item in the place of an unknown one.
        known_items = [item for item in listed if item in known]
        answers = [item if item in known else known_items[0] for item in listed]
        encoded = prompts.row(row["example_id"], history, answers, known_items)
        scorable.indices.append(index)
        scorable.rows.append(encoded)
        scorable.knows_target.append(is_known[0])
        scorable.is_known.append(is_known)
    return scorable


def _target_first(candidates: Sequence[str], target: str) -> list[str]:
    negatives = [item for item in candidates if item != target]
    return [target, *negatives]


def _known_items(loaded: LoadedModel, window: Window) -> Set[str]:
    """The items that a model can write: those with a token, or any that has a title."""
    if loaded.settings.item_text == "token":
        return {*loaded.base.items}
    return {*window.items["item_id"]}
