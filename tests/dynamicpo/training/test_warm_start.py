"""SFT that goes on from a trained model begins where that ended, with rows for new items."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from dynamicpo.cli.main import main
from dynamicpo.core.config import SFTConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.models.base_models import item_token_ids
from dynamicpo.models.checkpoints import LoadedModel, load_model
from dynamicpo.training.sft import fine_tune, prompt_settings
from dynamicpo.training.warm_start import load_start
from tests.fixtures.models import write_tiny_llm
from tests.fixtures.sampled_rows import sampled_rows
from tests.fixtures.tables import write_tables

NEW_ITEMS = ("i30", "i31", "i32")
SHORT = SFTConfig(max_steps=3, batch_size=8, loss_on="history")
# So small that three steps leave the weights where they were.
STANDING = dataclasses.replace(SHORT, learning_rate=1e-9)


def write_rows(folder: Path, new_items: tuple[str, ...] = ()) -> Path:
    folder.mkdir()
    interactions, items = write_tables(folder)
    with Path(items).open("a", encoding="utf-8") as file:
        file.writelines(f"{item},Film {item}\n" for item in new_items)
    # The first users see them last: as targets of the test split.
    with Path(interactions).open("a", encoding="utf-8") as file:
        file.writelines(
            f"u{user},{item},{99_000 + user}\n" for user in range(9) for item in new_items
        )
    return sampled_rows(folder, interactions, items)


@pytest.fixture(scope="module")
def old_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("old") / "rows")


@pytest.fixture(scope="module")
def new_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("new") / "rows", NEW_ITEMS)


@pytest.fixture(scope="module")
def champion(old_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("champion") / "sft"
    fine_tune(old_rows, folder, dataclasses.replace(SHORT, max_steps=60))
    return folder


@pytest.fixture(scope="module")
def adapter(old_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    llm = write_tiny_llm(folder / "llm")
    config = dataclasses.replace(SHORT, backbone=str(llm), lora_rank=4)
    fine_tune(old_rows, folder / "sft", config)
    return folder / "sft"


def first_loss(folder: Path) -> float:
    first = (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()[0]
    return float(json.loads(first)["loss"])


def item_rows(loaded: LoadedModel, items: tuple[str, ...]) -> torch.Tensor:
    """The embeddings of some items."""
    ids = dict(zip(loaded.base.items, item_token_ids(loaded.tokenizer, loaded.base), strict=True))
    weights = loaded.model.get_input_embeddings().weight  # type: ignore[operator]
    return weights.detach()[[ids[item] for item in items]]


def test_training_begins_where_the_champion_ended(
    champion: Path, old_rows: Path, new_rows: Path, tmp_path: Path
) -> None:
    warm = tmp_path / "warm"
    manifest = fine_tune(new_rows, warm, STANDING, start=champion)
    fine_tune(new_rows, tmp_path / "cold", STANDING)
    # Of 30 items: log 30 is 3.4.
    assert first_loss(warm) < 2 < 3 < first_loss(tmp_path / "cold")
    assert manifest.inputs["start"] == read_manifest(champion).fingerprint
    after = load_model(warm)
    before = load_model(champion)
    old_items = before.base.items
    assert after.base.items == (*old_items, *NEW_ITEMS)
    torch.testing.assert_close(
        item_rows(after, old_items), item_rows(before, old_items), atol=1e-5, rtol=0
    )


def test_a_new_item_is_drawn_by_its_own_name(champion: Path) -> None:
    settings = prompt_settings(SHORT)
    known = load_model(champion).base.items
    one = load_start(champion, SHORT, settings, ["i31", *known])
    several = load_start(champion, SHORT, settings, [*NEW_ITEMS, *known])
    assert torch.equal(item_rows(one, ("i31",)), item_rows(several, ("i31",)))
    drawn = item_rows(several, NEW_ITEMS)
    assert len({*map(tuple, drawn.tolist())}) == len(NEW_ITEMS)
    assert drawn.std().item() == pytest.approx(0.02, rel=0.15)
    seeded = load_start(champion, dataclasses.replace(SHORT, seed=1), settings, ["i31"])
    assert not torch.equal(item_rows(one, ("i31",)), item_rows(seeded, ("i31",)))


def test_an_adapter_goes_on_as_it_is(adapter: Path, new_rows: Path, tmp_path: Path) -> None:
    config = SFTConfig(**{**read_manifest(adapter).config, "learning_rate": 1e-9})
    fine_tune(new_rows, tmp_path / "warm", config, start=adapter)
    before, after = load_model(adapter).model, load_model(tmp_path / "warm").model
    ours = [name for name, _ in before.named_parameters() if "lora_" in name]
    assert ours
    for name in ours:
        weights = after.get_parameter(name)
        torch.testing.assert_close(weights, before.get_parameter(name), atol=1e-6, rtol=0)


def test_settings_that_make_another_model_are_refused(
    champion: Path, adapter: Path, new_rows: Path, tmp_path: Path
) -> None:
    llm = read_manifest(adapter).config["backbone"]
    other = dataclasses.replace(SHORT, backbone=llm, lora_rank=8)
    with pytest.raises(ConfigError, match=r"lora_rank \(4, asked for 8\)"):
        fine_tune(new_rows, tmp_path / "rank", other, start=adapter)
    with pytest.raises(ConfigError, match="start_from: .* differs in backbone"):
        fine_tune(new_rows, tmp_path / "backbone", other, start=champion)
    with pytest.raises(ConfigError, match=r"tuning \(full, asked for lora\)"):
        config = dataclasses.replace(SHORT, tuning="lora")
        fine_tune(new_rows, tmp_path / "tuning", config, start=champion)
    assert not [*tmp_path.iterdir()]


def test_an_adapter_with_item_tokens_takes_no_new_items(
    old_rows: Path, new_rows: Path, tmp_path: Path
) -> None:
    llm = write_tiny_llm(tmp_path / "llm")
    config = dataclasses.replace(SHORT, backbone=str(llm), lora_rank=4, item_text="token")
    fine_tune(old_rows, tmp_path / "sft", config)
    fine_tune(old_rows, tmp_path / "again", config, start=tmp_path / "sft")
    with pytest.raises(ConfigError, match="lacks 3, such as 'i30', and an adapter takes no more"):
        fine_tune(new_rows, tmp_path / "warm", config, start=tmp_path / "sft")


def test_the_command_starts_from_a_folder(
    champion: Path, new_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["sft", "--preferences", str(new_rows), "--loss-on", "history", "--max-steps", "1"]
    given += ["--output", str(tmp_path / "warm"), "--start-from"]
    assert main([*given, str(champion)]) == 0, capsys.readouterr().err
    inputs = read_manifest(tmp_path / "warm").inputs
    assert inputs["start"] == read_manifest(champion).fingerprint
    assert main([*given[:-3], "--output", str(tmp_path / "none"), "--store", "s"]) == 2
    assert "--store: must go with --start-from" in capsys.readouterr().err
