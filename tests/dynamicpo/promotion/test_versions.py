"""Versions are named by their content; what they were made of must fit together."""

import json
from pathlib import Path

import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import read_input
from dynamicpo.promotion.trained_users import count_trained_users
from dynamicpo.promotion.versions import (
    delete_version,
    fetch_version,
    find_version,
    make_version,
    published_names,
    read_version,
    version_uri,
)
from tests.fixtures.version_sources import make_source, write_evaluation, write_preferences


@pytest.fixture
def store(any_store: str) -> str:
    """An empty folder or prefix."""
    return any_store


def test_version_holds_what_serving_needs(store: str, tmp_path: Path) -> None:
    source = make_source(tmp_path)
    version = make_version(source, store)
    fetch_version(store, version.name, tmp_path / "served")
    model = tmp_path / "served" / "model"
    assert read_input(model).fingerprint == read_input(source.model).fingerprint
    assert (model / "model.safetensors").read_bytes() == b"weights"
    assert not (model / "run.json").exists()
    files = {path.name for path in (tmp_path / "served").iterdir()}
    assert {"model", "items.parquet", "rows.parquet", "users.parquet", "card.json"} <= files
    card = read_version(store, version.name).card
    assert (card["model"], card["licence"], card["base_version"]) == ("sft", "MIT", "")
    assert card["metrics"] == {"test_hit_ratio_at_1": 0.5}
    assert card["data"] == {"preferences": read_input(source.preferences).fingerprint}


def test_same_content_is_the_same_version(store: str, tmp_path: Path) -> None:
    first = make_version(make_source(tmp_path / "a"), store)
    again = make_version(make_source(tmp_path / "b"), store)
    other = make_version(make_source(tmp_path / "c", weights=b"others"), store)
    assert first.name == again.name != other.name
    assert published_names(store) == [first.name, other.name]


def test_version_is_found_by_the_beginning_of_its_name(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    name = make_version(make_source(tmp_path), store).name
    assert find_version(store, name[:6]) == find_version(store, name) == name
    for text in (name[:5], "", "0" * 64):
        with pytest.raises(DataError, match="must have one version .* but there is none"):
            find_version(store, text)


def test_deleted_version_is_not_listed_and_can_be_published_again(
    store: str, tmp_path: Path
) -> None:
    source = make_source(tmp_path)
    name = make_version(source, store).name
    delete_version(store, name)
    assert published_names(store) == []
    with pytest.raises(DataError, match="card.json"):
        read_version(store, name)
    with pytest.raises(DataError, match="must be a published folder"):
        fetch_version(store, name, tmp_path / "served")
    assert not (tmp_path / "served").exists()
    assert make_version(source, store).name == name
    assert published_names(store) == [name]


def test_evaluation_of_another_model_is_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    other = write_evaluation(tmp_path / "other", "dmpo", "0123456789abcdef")
    with pytest.raises(DataError, match="must be an evaluation of .* but it is one of dmpo"):
        make_version(source._replace(evaluation=other), str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_rows_of_another_training_are_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    other = write_preferences(tmp_path / "other", users=("1", "9"))
    with pytest.raises(DataError, match="must be the rows that .* was trained on"):
        make_version(source._replace(preferences=other), str(tmp_path / "store"))


def test_changed_model_is_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    (source.model / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(DataError, match="this one has changed"):
        make_version(source, str(tmp_path / "store"))


def test_users_are_counted_and_not_named(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    version = make_version(make_source(tmp_path), store)
    assert count_trained_users(version.uri, ["1", "3", "3", "4"]) == 2
    users = Path(version.uri) / "users.parquet"
    users.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="must be a list of hashes"):
        count_trained_users(version.uri, ["1"])


@pytest.mark.parametrize("card", ["[", "[]", "{}", "null", json.dumps({"model": "sft"})])
def test_damaged_card_is_named(card: str, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    name = make_version(make_source(tmp_path), store).name
    (Path(version_uri(store, name)) / "card.json").write_text(card)
    with pytest.raises(DataError, match="card.json: must"):
        read_version(store, name)


@pytest.mark.parametrize(
    ("entry", "value"), [("metrics", 1e300), ("model", [{}]), ("seen_until", "x"), ("data", 1)]
)
def test_a_card_with_an_entry_of_another_type_is_named(
    entry: str, value: object, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    name = make_version(make_source(tmp_path), store).name
    path = Path(version_uri(store, name)) / "card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, entry: value}))
    with pytest.raises(DataError, match=f"card.json: must be as a stage wrote it.*{entry}"):
        read_version(store, name)
