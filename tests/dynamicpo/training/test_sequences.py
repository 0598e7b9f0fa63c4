"""SFT on whole sequences, with dropout that the saved model knows nothing of."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dynamicpo.core.config import SFTConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.models.backbones import COMPACT, BaseModelSpec
from dynamicpo.models.base_models import load_base_model
from dynamicpo.models.checkpoints import load_model
from dynamicpo.models.dropout import layer_dropout
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.sequence_rows import sequence_rows
from dynamicpo.training.sft import fine_tune
from tests.fixtures.sampled_rows import sampled_rows
from tests.fixtures.tables import write_tables

SHORT = SFTConfig(max_steps=3, batch_size=8, loss_on="history", sequences=True)


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    return sampled_rows(folder, *write_tables(folder))


def steps_of_items(rows) -> Counter[tuple[str, str]]:
    """Each pair of an item and the next one that some rows teach."""
    pairs: Counter[tuple[str, str]] = Counter()
    for row in rows.to_pylist():
        path = [*row["history"], row["target"]]
        pairs.update(zip(path, path[1:], strict=False))
    return pairs


def test_every_step_of_every_user_is_learnt_once_a_pass(preferences: Path) -> None:
    items = read_items(preferences)
    train = read_rows(preferences, "train")
    longest = max(len(history) for history in train["history"].to_pylist())
    expected: Counter[tuple[str, str]] = Counter()
    by_user: dict[str, list[dict]] = {}
    for row in train.to_pylist():
        by_user.setdefault(row["user_id"], []).append(row)
    for rows in by_user.values():
        rows.sort(key=lambda row: int(row["example_id"].rpartition(":")[2]))
        path = rows[0]["history"] + [row["target"] for row in rows]
        expected.update(zip(path, path[1:], strict=False))
    once = sequence_rows(items, train, 1, seed=0)
    assert steps_of_items(once) == expected
    assert max(len(history) for history in once["history"].to_pylist()) <= longest
    twice = sequence_rows(items, train, 2, seed=0)
    assert steps_of_items(twice) == expected + expected
    assert len({*twice["example_id"].to_pylist()}) == len(twice)
    # Sliding windows teach the same steps several times.
    assert sum(steps_of_items(train).values()) > 2 * sum(expected.values())


def test_the_cuts_depend_on_the_seed_alone(preferences: Path) -> None:
    items = read_items(preferences)
    train = read_rows(preferences, "train")
    first = sequence_rows(items, train, 2, seed=0)
    assert first.equals(sequence_rows(items, train, 2, seed=0))
    assert not first.equals(sequence_rows(items, train, 2, seed=1))


def test_steps_and_epochs_are_counted_in_passes_over_the_sequences(
    preferences: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(SHORT, max_steps=0, epochs=3.0)
    fine_tune(preferences, tmp_path / "sft", config)
    lines = (tmp_path / "sft" / "steps.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["epoch"] == pytest.approx(3.0)
    num_rows = len(sequence_rows(read_items(preferences), read_rows(preferences, "train"), 3, 0))
    assert len(lines) == -(-num_rows // 8)
    schedule = Schedule.from_config(dataclasses.replace(config, epochs=2.5), 1e-3)
    assert dataclasses.replace(schedule, passes=3).num_steps(240) == 25


@pytest.mark.parametrize("change", [{"loss_on": "answer"}, {"list_candidates": True}])
def test_sequences_that_teach_one_item_alone_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="sequences: needs loss_on 'history' and no list_candid"):
        dataclasses.replace(SHORT, **change)  # type: ignore[arg-type]


def test_a_dropped_value_is_zero_and_the_mean_stays() -> None:
    model, _ = load_base_model(BaseModelSpec(COMPACT, items=("a", "b", "c")))
    inputs = torch.tensor([[2, 3, 4] * 40])
    embedded: list[torch.Tensor] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: embedded.append(args[0]))
    torch.manual_seed(0)
    with layer_dropout(model, 0.25), torch.no_grad():
        noisy = model.train()(inputs).logits
        again = model(inputs).logits
        quiet = model.eval()(inputs).logits
    after = model.train()(inputs).logits
    zeros = (embedded[0] == 0).float().mean()
    assert zeros.item() == pytest.approx(0.25, abs=0.02)
    kept = embedded[0] != 0
    torch.testing.assert_close(embedded[0][kept], embedded[2][kept] / 0.75)
    assert not noisy.equal(again)
    torch.testing.assert_close(quiet, after, rtol=0, atol=0)  # hooks are gone, and were off


def test_attention_and_units_are_dropped_as_well() -> None:
    model, _ = load_base_model(BaseModelSpec(COMPACT, items=("a", "b", "c")))
    shares = []
    with layer_dropout(model, 0.5):
        for layer in model.model.layers:
            for part in (layer.self_attn, layer.mlp):
                part.register_forward_hook(lambda *call: shares.append(zeros_of(call[2])))
        model.train()(torch.tensor([[2, 3, 4] * 40]))
    assert shares == pytest.approx([0.5] * 4, abs=0.03)


def zeros_of(outputs: object) -> float:
    hidden = outputs[0] if isinstance(outputs, tuple) else outputs
    assert isinstance(hidden, torch.Tensor)
    return float((hidden == 0).float().mean())


def test_dropout_changes_the_training_but_is_no_part_of_the_saved_model(
    preferences: Path, tmp_path: Path
) -> None:
    for name, share in (("without", 0.0), ("with", 0.3), ("again", 0.3)):
        fine_tune(preferences, tmp_path / name, dataclasses.replace(SHORT, dropout=share))
    weights = {
        name: load_file(str(tmp_path / name / "model.safetensors"))
        for name in ("without", "with", "again")
    }
    assert weights["with"].keys() == weights["without"].keys()
    assert any(not weights["with"][key].equal(weights["without"][key]) for key in weights["with"])
    assert all(weights["with"][key].equal(weights["again"][key]) for key in weights["with"])
    configs = [(tmp_path / name / "config.json").read_bytes() for name in ("without", "with")]
    assert configs[0] == configs[1]
    loaded = load_model(tmp_path / "with").model.train()
    tokens = torch.tensor([[0, 2, 3]])
    assert loaded(tokens).logits.equal(loaded(tokens).logits)
