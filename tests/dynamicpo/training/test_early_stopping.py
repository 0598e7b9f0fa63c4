"""Early stopping of SFT, frozen weights in bfloat16, and rows without `datasets`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dynamicpo.core.config import SFTConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.models.checkpoints import load_model
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.training.sft import fine_tune
from dynamicpo.training.sft_batches import encode_sft_rows, mean_cross_entropy
from tests.fixtures.folders import preference_rows, write_preferences, write_title_model


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    write_title_model(folder / "model")
    return folder / "model-base"


def sft_config(backbone: Path, **settings: Any) -> SFTConfig:
    values = {"backbone": str(backbone), "template": "titles", "tuning": "lora", "max_length": 64}
    values |= {"batch_size": 10, "precision": "float32", "learning_rate": 0.3, "max_steps": 40}
    return SFTConfig(**{**values, **settings})


# Whatever training learns: the histories of held-out rows are no held-out items.
@pytest.mark.parametrize("loss_on", ["answer", "history"])
def test_training_stops_when_validation_gets_worse_and_keeps_the_best_weights(
    loss_on: str, backbone: Path, tmp_path: Path
):
    preferences = write_preferences(tmp_path / "preferences")
    config = sft_config(backbone, patience=2, eval_steps=2, loss_on=loss_on)
    counts = fine_tune(preferences, tmp_path / "sft", config).counts
    assert counts["steps"] < 40
    assert counts["best_step"] == counts["steps"] - 2 * 2  # two looks without a better loss
    loaded = load_model(tmp_path / "sft")
    prompts = Prompts(loaded.tokenizer, read_items(preferences), loaded.settings)
    rows = read_rows(preferences, "validation")
    validation = encode_sft_rows([rows], prompts, "answer", tmp_path)
    reached = mean_cross_entropy(loaded.model, validation, 7)
    assert reached == pytest.approx(counts["best_validation_loss"], rel=1e-5)


def test_patience_without_validation_rows_is_refused(backbone: Path, tmp_path: Path):
    preferences = write_preferences(tmp_path / "preferences", {"train": preference_rows("train")})
    with pytest.raises(DataError, match="patience needs rows in the validation split"):
        fine_tune(preferences, tmp_path / "sft", sft_config(backbone, patience=1))
    assert not (tmp_path / "sft").exists()


def test_frozen_weights_are_bfloat16_and_the_adapter_is_float32(backbone: Path, tmp_path: Path):
    preferences = write_preferences(tmp_path / "preferences")
    settings = {"precision": "bfloat16", "base_weights": "bfloat16", "max_steps": 2}
    fine_tune(preferences, tmp_path / "sft", sft_config(backbone, **settings))
    for name, parameter in load_model(tmp_path / "sft").model.named_parameters():
        expected = torch.float32 if "lora_" in name else torch.bfloat16
        assert parameter.dtype == expected, name


@pytest.mark.parametrize(
    "settings",
    [
        {"tuning": "full", "precision": "bfloat16"},
        {"precision": "float32"},
        {"precision": "bfloat16", "item_text": "token"},
    ],
)
def test_trained_weights_are_never_bfloat16(
    settings: dict[str, str], backbone: Path, tmp_path: Path
):
    preferences = write_preferences(tmp_path / "preferences")
    config = sft_config(backbone, base_weights="bfloat16", **settings)
    with pytest.raises(ConfigError, match="base_weights: bfloat16 needs tuning 'lora'"):
        fine_tune(preferences, tmp_path / "sft", config)
