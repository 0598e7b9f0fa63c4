"""Rotary positions that depend on the longest sequence of a call: refused where they would."""

import math
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from dynamicpo.core.config import PreferenceConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.positions import position_limit
from dynamicpo.scoring.shared_prefix import answer_logps, score_rows
from dynamicpo.training.preference_batches import collate_preferences
from dynamicpo.training.preference_objective import PreferenceObjective
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.trainer import train
from tests.fixtures.scoring import (
    VOCABULARY,
    defined_logps,
    preference_examples,
    random_rows,
    tiny_model,
)

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 1,
}
LIMIT = 24


def dynamic_ntk() -> nn.Module:
    settings = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    return tiny_model(
        config=transformers.LlamaConfig(
            **SIZES, max_position_embeddings=LIMIT, rope_parameters=settings
        )
    )


def longrope() -> nn.Module:
    settings = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0, 5.0, 6.0, 8.0],
        "original_max_position_embeddings": LIMIT,
    }
    return tiny_model(
        config=transformers.Phi3Config(
            **SIZES,
            max_position_embeddings=4 * LIMIT,
            original_max_position_embeddings=LIMIT,
            rope_parameters=settings,
        )
    )


MODELS = {"dynamic": dynamic_ntk, "longrope": longrope}


@pytest.mark.parametrize("name", MODELS)
def test_rows_whose_score_would_depend_on_their_batch_are_refused(name: str) -> None:
    model = MODELS[name]()
    limit = position_limit(model)
    assert limit is not None and limit.number == LIMIT
    too_long = Row([3] * LIMIT, [[4, 5]])
    with pytest.raises(DataError, match="fit into the 24 positions.*depends on the other rows"):
        answer_logps(model, [Row([3] * 5, [[4, 5]]), too_long])


@pytest.mark.parametrize("name", MODELS)
def test_rows_within_the_limit_score_alike_in_any_batch(name: str) -> None:
    model = MODELS[name]()
    rows = [row for row in random_rows(30, 2) if len(row.prompt_ids) <= LIMIT - 6]
    with torch.no_grad():
        together = answer_logps(model, rows)
        torch.testing.assert_close(together, defined_logps(model, rows), rtol=1e-4, atol=1e-4)


def test_a_long_row_in_the_step_does_not_change_the_first_loss(tmp_path: Path) -> None:
    """One row of LIMIT tokens and seven short ones: log 2, or a refusal where it is longer."""
    model = dynamic_ntk()
    config = PreferenceConfig(num_negatives=1, dynamic="none", max_steps=1)

    def first_loss(longest: int) -> float:
        rows = [*random_rows(7, 2, (2,)), Row([3] * (longest - 1), [[4, 5], [6, 7]])]
        rows = [Row(row.prompt_ids[: longest - 1], row.answer_ids) for row in rows]
        reference = torch.cat([score_rows(model, [row]) for row in rows])
        dataset = preference_examples(rows, reference)
        schedule = Schedule.from_config(config, learning_rate=1e-3)
        objective = PreferenceObjective(config)
        return train(model, dataset, collate_preferences, objective, schedule, tmp_path, "test")[0][
            "loss"
        ]

    with pytest.raises(DataError, match="fit into the 24 positions"):
        first_loss(2 * LIMIT)
    assert first_loss(LIMIT) == pytest.approx(math.log(2), abs=1e-5)


def test_positions_of_patches_of_an_image_are_no_limit() -> None:
    model = tiny_model("llama")
    model.vision_tower = nn.ModuleDict({"position_embedding": nn.Embedding(16, 8)})
    assert position_limit(model) is None
