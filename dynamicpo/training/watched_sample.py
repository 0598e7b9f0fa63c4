"""The validation rows at which the watch for a collapse looks: the same ones each time."""

import logging
from functools import partial
from pathlib import Path

import numpy as np

from dynamicpo.core import random_keys
from dynamicpo.core.config import PreferenceConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.models.checkpoints import LoadedModel
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.training.collapse_watch import CollapseWatch, WatchedSample
from dynamicpo.training.early_stopping import EarlyStopping
from dynamicpo.training.preference_batches import encode_preference_row
from dynamicpo.training.preference_objective import PreferenceObjective

log = logging.getLogger(__name__)


def make_watch(
    preferences: Path, loaded: LoadedModel, objective: PreferenceObjective, num_steps: int
) -> CollapseWatch | None:
    """The watch over a training; None where the settings want none, or no row is there for it.

    Args:
        preferences: Output of negative sampling.
        loaded: The model in training, with its prompts.
        objective: What is trained.
        num_steps: Steps of the training.

    Raises:
        DataError: The best weights are wanted, and there is no row to choose them by.
    """
    config = objective.config
    if not config.watch_rows:
        return None
    # Processes take turns with what they score, but the layers of each are in all of them.
    if config.sharding != "none":
        log.info("sharding %s: ranking is not watched", config.sharding)
        return None
    sample = _watched_sample(preferences, loaded, objective)
    return None if sample is None else CollapseWatch(loaded.model, sample, config, num_steps)


def keep_best(
    watch: CollapseWatch | None, loaded: LoadedModel, config: PreferenceConfig
) -> EarlyStopping | None:
    """Keeper of the best look's weights; None where the last ones are delivered."""
    if config.deliver == "last":
        return None
    assert watch is not None, "the configuration and make_watch refuse all else"
    return EarlyStopping(
        loaded.model,
        watch.error_rate,
        watch.look_steps,
        measure="error rate",
    )


def _watched_sample(
    preferences: Path, loaded: LoadedModel, objective: PreferenceObjective
) -> WatchedSample | None:
    """Validation rows chosen at random, by the training's seed."""
    config = objective.config
    table = read_rows(preferences, "validation")
    if not len(table) and config.deliver == "best":
        raise DataError(
            f"{preferences}: deliver 'best' needs rows in the validation split, got none. "
            "Deliver the last weights, or prepare the data with a validation split."
        )
    if not len(table):
        log.info("no validation rows: ranking is not watched")
        return None
    order = random_keys.random_order(config.seed, "watch", table["example_id"].to_pylist())
    chosen = np.sort(order[: config.watch_rows])
    sample = table.take(chosen).to_pylist()
    # Its own: what is cut of these rows does not count as cut in training.
    prompts = Prompts(loaded.tokenizer, read_items(preferences), loaded.settings)
    # Rows of a call have equally many answers.
    num_rejected = min(len(row["rejected"]) for row in sample)
    rows = [encode_preference_row(row, prompts, num_rejected) for row in sample]
    users = [row["user_id"] for row in sample]
    gradient = partial(objective.boundary_gradient, rows)
    return WatchedSample(rows, users, gradient, config.backend)
