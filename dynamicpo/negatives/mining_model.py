"""A fine-tuned model as the miner of negatives: its scores of every item after training rows."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch

from dynamicpo.core.arrays import Float32Array, IntArray
from dynamicpo.models.backbones import Permissions
from dynamicpo.models.checkpoints import load_model
from dynamicpo.negatives.drawing import ItemScorer
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.scoring.catalogue_scoring import catalogue_scores


def model_scorer(
    folder: Path, items: pd.DataFrame, train: pa.Table, permissions: Permissions
) -> ItemScorer:
    """Load a model that scores every item after the histories of training rows.

    Args:
        folder: Output of SFT or preference training.
        items: The items table.
        train: The training rows.
        permissions: What the command allows the model's folder.

    Raises:
        ConfigError: The model needs what isn't permitted.
        DataError: It can't be read, or does not know an item.
    """
    loaded = load_model(folder, permissions)
    prompts = Prompts(loaded.tokenizer, items, loaded.settings)
    answers = prompts.answers(items["item_id"].tolist())
    longest = max(map(len, answers))

    def score_items(numbers: IntArray) -> Iterator[Float32Array]:
        rows = train.take(numbers)
        example_ids = rows["example_id"].to_pylist()
        histories = rows["history"].to_pylist()
        prompt_ids = []
        for example_id, history in zip(example_ids, histories, strict=True):
            # All answers must fit behind one prompt, so that their scores can be compared.
            prompt = prompts.prompt(example_id, history, longest)
            prompt_ids.append(prompt)
        with loaded.execution_context(), torch.no_grad():
            yield from catalogue_scores(loaded.model, prompt_ids, answers)

    return score_items
