"""Scores that a model gives to the targets of a window."""

from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import Row
from dynamicpo.models.backbones import NOTHING_PERMITTED, Permissions
from dynamicpo.models.checkpoints import LoadedModel, load_model
from dynamicpo.monitoring.windows import Window
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.scoring.shared_prefix import score_rows


class _ScorableRows(NamedTuple):
    """Rows that a model can score, and their indices in the window."""

    indices: list[int]
    rows: list[Row]


def chosen_scores(
    folder: Path, window: Window, name: str, permissions: Permissions = NOTHING_PERMITTED
) -> FloatArray:
    """Score each row's target by its log-probability.

    Args:
        folder: A model's folder.
        window: The rows.
        name: The window's name in messages.
        permissions: What the command allows the model's folder.

    Returns:
        One score a row, nats; NaN where the model does not know the target, or nothing of the
        history.

    Raises:
        DataError: No row has a finite score.
    """
    loaded = load_model(folder, permissions)
    scorable = _scorable_rows(loaded, window)
    scores = np.full(len(window.rows), np.nan)
    if scorable.rows:
        with loaded.execution_context():
            logps = score_rows(
                loaded.model,
                scorable.rows,
                label=f"scoring the {name} window",
            )
        # The target is each row's only answer.
        scores[scorable.indices] = logps[:, 0].numpy()
    if not np.isfinite(scores).any():
        raise DataError(
            f"{folder}: must score at least one row of the {name} window, but it has a usable "
            "score for none. Give the model that was trained on the reference."
        )
    return scores


def _scorable_rows(loaded: LoadedModel, window: Window) -> _ScorableRows:
    """Encode the rows whose target the model knows, without the other items that it does not know.

    New items are what drift is about, so they must not be an error.
    """
    prompts = Prompts(loaded.tokenizer, window.items, loaded.settings)
    known = _known_items(loaded, window)
    scorable = _ScorableRows([], [])
    columns = ["example_id", "history", "target", "candidates"]
    rows = window.rows.select(columns).to_pylist()
    for index, row in enumerate(rows):
        history = [item for item in row["history"] if item in known]
        if not history or row["target"] not in known:
            continue
        encoded = prompts.row(
            row["example_id"],
            history,
            answers=[row["target"]],
            candidates=[item for item in row["candidates"] if item in known],
        )
        scorable.indices.append(index)
        scorable.rows.append(encoded)
    return scorable


def _known_items(loaded: LoadedModel, window: Window) -> Set[str]:
    """The items that a model can write: those with a token, or any that has a title."""
    if loaded.settings.item_text == "token":
        return {*loaded.base.items}
    return {*window.items["item_id"]}
