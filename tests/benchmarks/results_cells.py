"""The cells of `make results`: the quickstart's recipe from data to evaluation, for one seed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dynamicpo.data.prepare import prepare_data
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.runs.signatures import pipelines_folder
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.sft import fine_tune
from tests.benchmarks.stage_configs import Configs, stage_configs

PRESET = pipelines_folder() / "training" / "presets" / "compact.yaml"
# Each named as the pipeline's runs name it.
ARMS: Mapping[str, str] = {"dmpo": "none", "dynamicpo-dmpo": "full"}
# Beside the recipe's own negatives, for the first seed of the split by time.
OTHER_STRATEGIES = ("uniform", "popularity-matched")


class Cell(NamedTuple):
    """One repetition of the recipe.

    Attributes:
        split: The rule that makes the test split.
        seed: Of negatives, SFT, preference training and SASRec.
        strategies: Other negatives that its models are evaluated with, too.
    """

    split: str
    seed: int
    strategies: Sequence[str] = ()

    @property
    def name(self) -> str:
        return f"{self.split}-s{self.seed}"


# Any: parameters of the pipeline, of several types.
def cell_configs(cell: Cell, changes: Mapping[str, Any]) -> Configs:
    """The settings of the preset, with this cell's split and seed."""
    given = {"data_split": cell.split, "seed": cell.seed, **changes}
    return stage_configs("training", PRESET, given)


def prepare(cell: Cell, root: Path, changes: Mapping[str, Any]) -> Path:
    """The examples of a cell, which those of other seeds share."""
    examples = root / f"{cell.split}-examples"
    data = cell_configs(cell, changes).data
    given = {"data_interactions": "", "data_items": "", **changes}
    prepare_data(given["data_interactions"], given["data_items"], examples, data)
    return examples


def run_cell(cell: Cell, root: Path, changes: Mapping[str, Any]) -> Path:
    """Train and evaluate; what is finished is kept, so that a second run goes on.

    Returns:
        The evaluation.
    """
    logging.basicConfig(format=f"%(asctime)s {cell.name} %(message)s", level=logging.INFO)
    configs = cell_configs(cell, changes)
    examples = root / f"{cell.split}-examples"
    folder = root / cell.name
    preferences = folder / "preferences"
    sample_negatives(examples, preferences, configs.negatives)
    sft = folder / "sft"
    fine_tune(preferences, sft, configs.sft)
    models = {"sft": sft}
    for name, dynamic in ARMS.items():
        models[name] = folder / name
        config = replace(configs.preference, loss="dmpo", dynamic=dynamic)
        train_preferences(preferences, sft, models[name], config)
    evaluation = folder / "evaluation"
    evaluate(preferences, models, evaluation, configs.evaluation)
    for strategy in cell.strategies:
        _evaluate_with(strategy, examples, folder, models, configs)
    return evaluation


def _evaluate_with(
    strategy: str, examples: Path, folder: Path, models: Mapping[str, Path], configs: Configs
) -> None:
    preferences = folder / f"{strategy}-preferences"
    negatives = replace(configs.negatives, strategy=strategy)
    sample_negatives(examples, preferences, negatives)
    listed = replace(configs.evaluation, candidates="listed")
    evaluate(preferences, models, folder / f"{strategy}-evaluation", listed)
