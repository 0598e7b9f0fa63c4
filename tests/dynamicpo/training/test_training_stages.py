"""SFT and preference training on a small data set: outputs, repetition, errors, disjoint rows."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest, read_manifest
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.models import checkpoints
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.scoring.shared_prefix import score_rows
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.sft import fine_tune
from tests.fixtures.models import write_tiny_llm
from tests.fixtures.sampled_rows import sampled_rows
from tests.fixtures.tables import write_tables

SHORT_SFT = SFTConfig(max_steps=3, batch_size=8, loss_on="history")
SHORT = PreferenceConfig(num_negatives=4, max_steps=3, batch_size=8)


@pytest.fixture(scope="module")
def preferences(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    return sampled_rows(folder, *write_tables(folder))


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory) -> Path:
    return write_tiny_llm(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def compact(preferences, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("compact") / "sft"
    fine_tune(preferences, output, SHORT_SFT)
    return output


@pytest.fixture(scope="module")
def adapter(preferences, tiny_llm, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("adapter") / "sft"
    fine_tune(
        preferences, output, dataclasses.replace(SHORT_SFT, backbone=str(tiny_llm), lora_rank=4)
    )
    return output


def steps_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(next(folder.glob("*model.safetensors"))))


def logps_of(folder: Path, preferences: Path) -> torch.Tensor:
    loaded = checkpoints.load_model(folder)
    prompts = Prompts(loaded.tokenizer, read_items(preferences), loaded.settings)
    rows = read_rows(preferences, "test").slice(0, 8).to_pylist()
    built = [
        prompts.row(r["example_id"], r["history"], r["candidates"], r["candidates"]) for r in rows
    ]
    return score_rows(loaded.model, built)


def test_sft_of_the_compact_backbone_writes_a_whole_model(compact: Path, preferences: Path) -> None:
    manifest = read_manifest(compact)
    assert manifest.extra["kind"] == "full" and manifest.extra["prompts"]["item_text"] == "token"
    assert (
        manifest.counts["steps"] == 3
        and manifest.counts["parameters"] == manifest.counts["trainable_parameters"]
    )
    steps = steps_of(compact)
    assert [step["step"] for step in steps] == [1, 2, 3] and steps[2]["loss"] < steps[0]["loss"]
    assert logps_of(compact, preferences).isfinite().all()


def test_sft_of_a_causal_lm_writes_an_adapter_and_leaves_the_base_alone(
    adapter, tiny_llm, preferences
) -> None:
    manifest = read_manifest(adapter)
    assert manifest.extra["kind"] == "adapter" and manifest.extra["prompts"]["item_text"] == "title"
    assert manifest.counts["trainable_parameters"] < manifest.counts["parameters"] / 4
    assert not (adapter / "model.safetensors").exists()
    base = checkpoints.load_base_of(adapter).model
    trained = checkpoints.load_model(adapter).model.get_base_model()
    before = base.model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(
        trained.model.layers[0].self_attn.q_proj.base_layer.weight, before, rtol=0, atol=0
    )
    assert logps_of(adapter, preferences).isfinite().all()


@pytest.mark.parametrize("model", ["compact", "adapter"])
def test_the_same_training_twice_gives_the_same_bytes(
    model, preferences, tiny_llm, tmp_path, request
) -> None:
    first = request.getfixturevalue(model)
    config = SFTConfig(**read_manifest(first).config)
    again = fine_tune(preferences, tmp_path / "again", config)
    assert again.fingerprint == read_manifest(first).fingerprint


def test_a_backbone_that_changed_in_its_folder_is_not_taken_for_the_old_one(
    preferences, tmp_path
) -> None:
    config = dataclasses.replace(
        SHORT_SFT, backbone=str(write_tiny_llm(tmp_path / "llm")), lora_rank=4
    )
    first = fine_tune(preferences, tmp_path / "sft", config)
    assert (
        fine_tune(preferences, tmp_path / "sft", config).fingerprint == first.fingerprint
    )  # nothing to do
    weights = tmp_path / "llm" / "model.safetensors"
    save_file(
        {name: values * 1.01 for name, values in load_file(str(weights)).items()},
        str(weights),
        {"format": "pt"},
    )
    with pytest.raises(
        DataError, match="sft: must be new or made from the same.* differs in backbone"
    ):
        fine_tune(preferences, tmp_path / "sft", config)
    with pytest.raises(
        DataError,
        match="llm: must be as it was when a model was trained on it, but its files have changed",
    ):
        checkpoints.load_model(tmp_path / "sft")


def test_another_seed_gives_another_model(preferences, compact, tmp_path) -> None:
    fine_tune(preferences, tmp_path / "other", dataclasses.replace(SHORT_SFT, seed=1))
    assert (
        read_manifest(tmp_path / "other").files["model.safetensors"]
        != read_manifest(compact).files["model.safetensors"]
    )


@pytest.mark.parametrize("model", ["compact", "adapter"])
@pytest.mark.parametrize("loss", ["dmpo", "sdpo", "mppo", "simpo"])
def test_preference_training_logs_what_to_watch(
    model, loss, preferences, tmp_path, request
) -> None:
    sft = request.getfixturevalue(model)
    train_preferences(preferences, sft, tmp_path / "out", dataclasses.replace(SHORT, loss=loss))
    steps = steps_of(tmp_path / "out")
    assert len(steps) == 3
    names = (
        "loss",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "boundary_fraction",
    )
    names += ("violation_share", "boundary_beta", "boundary_gradient", "learning_rate")
    assert all(isinstance(step[name], float) for step in steps for name in names)
    if loss not in ("mppo", "simpo"):  # the policy starts as the reference
        assert abs(steps[0]["rewards/chosen"]) < 1e-5 and abs(steps[0]["rewards/margins"]) < 1e-5
    assert 'src="http' not in (tmp_path / "out" / "report.html").read_text()
    assert read_manifest(tmp_path / "out").extra["kind"] == read_manifest(sft).extra["kind"]


def test_preference_training_leaves_the_reference_unchanged_and_moves_the_policy(
    preferences, adapter, tmp_path
) -> None:
    before = read_manifest(adapter).files["adapter_model.safetensors"]
    train_preferences(
        preferences, adapter, tmp_path / "out", dataclasses.replace(SHORT, learning_rate=1e-2)
    )
    assert read_manifest(adapter).files["adapter_model.safetensors"] == before
    moved = logps_of(tmp_path / "out", preferences) - logps_of(adapter, preferences)
    assert moved.abs().max() > 1e-3


def test_accumulated_micro_batches_equal_one_batch(preferences, compact, tmp_path) -> None:
    for name, micro in (("one_batch", 0), ("micro_batches", 2)):
        train_preferences(
            preferences,
            compact,
            tmp_path / name,
            dataclasses.replace(SHORT, micro_batch_size=micro),
        )
    for one, other in zip(
        steps_of(tmp_path / "one_batch"), steps_of(tmp_path / "micro_batches"), strict=True
    ):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["boundary_gradient"] == pytest.approx(other["boundary_gradient"], rel=1e-3)
    parts = weights_of(tmp_path / "micro_batches")
    for name, weight in weights_of(tmp_path / "one_batch").items():
        torch.testing.assert_close(weight, parts[name], rtol=1e-3, atol=2e-4)


@pytest.mark.training
def test_training_overfits_a_few_rows(preferences, compact, tmp_path) -> None:
    config = PreferenceConfig(
        num_negatives=4,
        rows=4,
        max_steps=60,
        batch_size=4,
        loss="sdpo",
        dynamic="none",
        learning_rate=2e-3,
    )
    tuned = fine_tune(preferences, tmp_path / "sft", dataclasses.replace(SHORT_SFT, rows=8))
    train_preferences(preferences, tmp_path / "sft", tmp_path / "out", config)
    assert tuned.counts["rows"] == 8
    steps = steps_of(tmp_path / "out")
    assert steps[-1]["loss"] < 0.02 < steps[0]["loss"] and steps[-1]["rewards/accuracies"] == 1.0


@pytest.mark.training
def test_bfloat16_products_learn_as_float32_does(preferences, tiny_llm, tmp_path) -> None:
    """torch would keep copies of trained weights as long as an autocast context lasts."""
    config = SFTConfig(
        backbone=str(tiny_llm),
        loss_on="history",
        rows=8,
        batch_size=8,
        max_steps=20,
        learning_rate=0.01,
        tuning="full",
    )
    last = {}
    for precision in ("float32", "bfloat16"):
        fine_tune(
            preferences, tmp_path / precision, dataclasses.replace(config, precision=precision)
        )
        steps = steps_of(tmp_path / precision)
        assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
        last[precision] = steps[-1]["loss"]
    assert last["bfloat16"] == pytest.approx(last["float32"], rel=0.05)


def trained_rows(manifest: Manifest) -> tuple[float, float]:
    counts = manifest.counts
    return counts["rows"], counts["rows_shared_with_sft"]


def test_rows_of_the_two_stages_are_disjoint_as_far_as_they_go(
    preferences, tmp_path, caplog
) -> None:
    caplog.set_level(logging.INFO, logger="dynamicpo.training.preference_training")
    number = read_rows(preferences, "train").num_rows
    sft = tmp_path / "sft"
    fine_tune(preferences, sft, dataclasses.replace(SHORT_SFT, rows=number - 5))
    left = dataclasses.replace(SHORT, rows=5, batch_size=5)
    assert trained_rows(train_preferences(preferences, sft, tmp_path / "5", left)) == (5, 0)
    assert "SFT's" not in caplog.text
    more = dataclasses.replace(SHORT, rows=6)
    assert trained_rows(train_preferences(preferences, sft, tmp_path / "6", more)) == (6, 1)
    said = [record.getMessage() for record in caplog.records if "SFT's" in record.getMessage()]
    assert said == ["preference training: 1 of 6 rows are SFT's, which left 5"]


def test_more_rows_than_there_are_mean_all_of_them(preferences, tmp_path, caplog) -> None:
    """The form's defaults, which are MovieLens', must do for a small table."""
    caplog.set_level(logging.INFO, logger="dynamicpo.core.row_numbers")
    number = read_rows(preferences, "train").num_rows
    sft, all_rows = tmp_path / "sft", tmp_path / "all"
    tuned = fine_tune(preferences, sft, dataclasses.replace(SHORT_SFT, rows=5000))
    assert tuned.counts["rows"] == number and tuned.config["rows"] == 5000
    trained = train_preferences(
        preferences, sft, tmp_path / "out", dataclasses.replace(SHORT, rows=16000)
    )
    assert trained_rows(trained) == (number, number)
    said = [record for record in caplog.records if record.name == "dynamicpo.core.row_numbers"]
    assert [record.getMessage() for record in said] == [
        f"SFT: takes all {number} rows, 5000 were asked for",
        f"preference training: takes all {number} rows, 16000 were asked for",
    ]
    train_preferences(preferences, sft, all_rows, dataclasses.replace(SHORT, rows=0))
    assert steps_of(tmp_path / "out") == steps_of(all_rows)


def test_items_as_tokens_of_a_causal_lm(preferences, tiny_llm, tmp_path) -> None:
    config = dataclasses.replace(SHORT_SFT, backbone=str(tiny_llm), item_text="token", lora_rank=4)
    fine_tune(preferences, tmp_path / "sft", config)
    train_preferences(preferences, tmp_path / "sft", tmp_path / "out", SHORT)
    assert logps_of(tmp_path / "out", preferences).isfinite().all()


def test_all_weights_of_a_causal_lm_with_candidates_listed(preferences, tiny_llm, tmp_path) -> None:
    config = dataclasses.replace(
        SHORT_SFT, backbone=str(tiny_llm), tuning="full", list_candidates=True, template="books"
    )
    assert fine_tune(preferences, tmp_path / "sft", config).extra["kind"] == "full"
    train_preferences(preferences, tmp_path / "sft", tmp_path / "out", SHORT)
    assert logps_of(tmp_path / "out", preferences).isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_negatives": 6}, "need 6 negatives, some rows offer 5. Lower num_negatives"),
        ({"loss": "dpo"}, "num_negatives: must be 1 with the loss dpo, got 4"),
    ],
)
def test_objectives_that_cannot_be_trained_are_refused(
    change, message, preferences, compact, tmp_path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_preferences(
            preferences, compact, tmp_path / "out", dataclasses.replace(SHORT, **change)
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_text": "title"}, "item_text: the compact backbone has one token per item"),
        (
            {"backbone": "./nowhere"},
            "backbone: must be a folder with a config.json, ./nowhere is not",
        ),
        ({"backbone": "./nowhere", "template": "movei"}, "Did you mean 'movies'"),
        ({"template": "movei"}, "Did you mean 'movies'"),
        ({"quantization": "4bit"}, "quantization: the compact backbone"),
        (
            {"learning_rate": 1e30, "max_steps": 4},
            r"step 2: the gradient must be finite, got nan for the rows u\d+:\d.* Lower the",
        ),
        (
            {"batch_size": 8, "micro_batch_size": 3},
            "batch_size: must be a multiple of micro_batch_size",
        ),
    ],
)
def test_sft_that_cannot_start_is_refused_and_leaves_nothing(
    change, message, preferences, tmp_path
) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        fine_tune(preferences, tmp_path / "out", dataclasses.replace(SHORT_SFT, **change))
    assert list(tmp_path.iterdir()) == []


def test_a_finished_model_is_used_again_and_another_configuration_refused(
    preferences, compact
) -> None:
    before = (compact / "run.json").read_text()
    assert fine_tune(preferences, compact, SHORT_SFT).counts == read_manifest(compact).counts
    assert (compact / "run.json").read_text() == before
    with pytest.raises(DataError, match="differs in max_steps"):
        fine_tune(preferences, compact, dataclasses.replace(SHORT_SFT, max_steps=4))


def test_a_template_file_that_has_changed_is_another_configuration(preferences, tmp_path) -> None:
    template = tmp_path / "mine.yaml"
    template.write_text("prompts: ['{history}?']")
    config = dataclasses.replace(SHORT_SFT, template=str(template))
    fine_tune(preferences, tmp_path / "out", config)
    template.write_text("prompts: ['{history}!']")
    with pytest.raises(DataError, match="differs in template"):
        fine_tune(preferences, tmp_path / "out", config)


def test_a_model_folder_without_its_weights_is_named(preferences, compact, tmp_path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in compact.iterdir():
        if file.suffix != ".safetensors":
            (broken / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        DataError, match="broken must hold the files that its manifest names.*is missing"
    ):
        checkpoints.load_model(broken)
    with pytest.raises(DataError, match="must be the output of sft or train-preferences"):
        checkpoints.load_model(preferences)


@pytest.mark.parametrize("seed", [None, "7"])
def test_a_start_without_a_usable_seed_is_refused(preferences, compact, tmp_path, seed) -> None:
    """Rows are divided between SFT and preference training by it."""
    start = tmp_path / "start"
    shutil.copytree(compact, start)
    manifest = json.loads((start / "manifest.json").read_text())
    del manifest["config"]["seed"]
    manifest["config"] |= {"seed": seed} if seed else {}
    (start / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="start/manifest.json: must be as a stage wrote it.*seed"):
        train_preferences(preferences, start, tmp_path / "out", SHORT)
    with pytest.raises(DataError, match="must be the output of sft or train-preferences"):
        train_preferences(preferences, preferences, tmp_path / "out", SHORT)
