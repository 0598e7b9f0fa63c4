"""What a model would serve: its generator's proposals, ranked by the model."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.evaluation import evaluated_models, served_models
from dynamicpo.evaluation.baselines.sasrec import fit_sasrec
from dynamicpo.evaluation.baselines.simple import make_baseline
from dynamicpo.evaluation.candidates import ModelRanking, RankingModel, rank_with_model
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.evaluation.generators import read_generator, read_version_generator
from dynamicpo.evaluation.rows import EvaluationData
from dynamicpo.promotion.versions import VersionSource, fetch_version, make_version
from tests.fixtures.folders import (
    NUM_ITEMS,
    preference_rows,
    write_model,
    write_preferences,
)

FAST: dict[str, Any] = {"resamples": 100, "proposals": 10}
TRAINED_ON = {"preferences": "test"}


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_preferences(tmp_path_factory.mktemp("rows") / "preferences")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "sft", seed=1)


@pytest.fixture(scope="module")
def evaluations(
    preferences: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """An evaluation with each generator, beside the whole catalogue."""
    root = tmp_path_factory.mktemp("evaluations")
    folders = {}
    for generator in ("sasrec", "cooccurrence", "catalogue"):
        settings = {**FAST, "generator": generator, "candidates": "listed,catalogue"}
        folders[generator] = root / generator
        evaluate(preferences, {"sft": model}, root / generator, EvaluationConfig(**settings))
    return folders


def served(folder: Path, name: str = "sft") -> pd.DataFrame:
    return pq.read_table(folder / name / "served.parquet").to_pandas()


def metrics(folder: Path, name: str = "sft") -> dict[str, float]:
    return json.loads((folder / name / "metrics.json").read_text())


def allowed(row: dict[str, Any]) -> list[str]:
    """Items that may be proposed: none of the history, by the protocol of these rows."""
    return [item for item in sorted(map(str, range(NUM_ITEMS))) if item not in row["history"]]


@pytest.mark.parametrize("kind", ["sasrec", "cooccurrence"])
def test_kept_generator_proposes_as_it_was_trained(
    kind: str, preferences: Path, evaluations: dict[str, Path]
) -> None:
    items = read_items(preferences)
    train = read_rows(preferences, "train")
    validation = read_rows(preferences, "validation")
    if kind == "sasrec":
        expected = fit_sasrec(items, train, validation=validation)
    else:
        expected = make_baseline(kind, items, train)
    rows = read_rows(preferences, "test")
    kept = read_generator(evaluations["catalogue"], kind, items)
    assert np.array_equal(kept(rows), expected(rows))


@pytest.mark.parametrize("kind", ["sasrec", "cooccurrence"])
def test_item_that_is_not_proposed_counts_nothing(
    kind: str, preferences: Path, evaluations: dict[str, Path]
) -> None:
    items = read_items(preferences)
    scores = read_generator(evaluations[kind], kind, items)(read_rows(preferences, "test"))
    popularity = dict(zip(items["item_id"], items["popularity"], strict=True))
    expected = []
    for row, values in zip(preference_rows("test"), scores, strict=True):
        score = dict(zip(items["item_id"], values, strict=True))
        order = sorted(allowed(row), key=lambda item: (-score[item], -popularity[item], item))
        expected.append(row["target"] in order[:10])
    table = served(evaluations[kind])
    assert table["is_listed"].tolist() == expected
    assert 0 < sum(expected) < len(expected)
    gains = [
        0.0 if not listed else float(np.mean([1 / math.log2(2 + place) for place in places]))
        for listed, places in zip(
            table["is_listed"],
            (range(b, b + t + 1) for b, t in zip(table["better"], table["tied"], strict=True)),
            strict=True,
        )
    ]
    values = metrics(evaluations[kind])
    assert values["test_served_ndcg_at_10"] == pytest.approx(np.mean(gains))
    assert values["test_served_recall"] == pytest.approx(np.mean(expected))
    assert values["test_served_ndcg_at_10_low"] <= values["test_served_ndcg_at_10"]


def test_whole_catalogue_is_served_as_it_is_ranked(evaluations: dict[str, Path]) -> None:
    values = metrics(evaluations["catalogue"])
    assert values["test_served_ndcg_at_10"] == values["test_catalogue_ndcg_at_10"]
    assert values["test_served_recall"] == 1
    # A baseline serves by itself.
    values = metrics(evaluations["sasrec"], "cooccurrence")
    assert values["test_served_ndcg_at_10"] == values["test_catalogue_ndcg_at_10"]


def test_whole_catalogue_is_not_ranked_again_to_serve_it(
    preferences: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked = []

    def rank(ranking_model: RankingModel, data: EvaluationData) -> ModelRanking:
        ranked.append((ranking_model.label, data.codes is None))
        return rank_with_model(ranking_model, data)

    for module in (evaluated_models, served_models):
        monkeypatch.setattr(module, "rank_with_model", rank)
    settings = {**FAST, "generator": "catalogue", "sasrec": False}
    for candidates in ("listed,catalogue", "listed"):
        config = EvaluationConfig(**settings, candidates=candidates)
        evaluate(preferences, {"sft": model}, tmp_path / candidates, config)
    twice = [("sft", False), ("sft", True)]
    assert ranked == [*twice, ("sft", False), ("sft, as it serves", True)]


def test_nothing_is_served_where_no_generator_was_named(
    preferences: Path, model: Path, tmp_path: Path
) -> None:
    manifest = evaluate(
        preferences, {"sft": model}, tmp_path / "out", EvaluationConfig(sasrec=False, resamples=100)
    )
    assert not (tmp_path / "out" / "sft" / "served.parquet").exists()
    assert manifest.extra["generators"] == {}
    with pytest.raises(ConfigError, match="generator: 'sasrec' needs SASRec"):
        EvaluationConfig(generator="sasrec", sasrec=False)


def publish(folder: Path, preferences: Path, model: Path, **settings: Any) -> Path:
    """A copy of a version."""
    config = EvaluationConfig(**{**FAST, **settings})
    evaluate(preferences, {"old": model}, folder / "evaluation", config)
    source = VersionSource(model, folder / "evaluation", preferences)
    store = str(folder / "store")
    version = make_version(source, store)
    fetch_version(store, version.name, folder / "version")
    return folder / "version"


def grown(folder: Path) -> Path:
    """The same rows in a catalogue of one more item, which is the next one of some."""
    splits = {}
    for split in ("train", "validation", "test"):
        rows = preference_rows(split, seed=1)
        for row in rows[::6]:
            place = row["candidates"].index(row["target"])
            row["candidates"][place] = row["target"] = "new"
        rows[3]["history"] = ["new"]
        rows[9]["history"] = [*rows[9]["history"], "new"]
        splits[split] = rows
    names = [*(str(item) for item in range(NUM_ITEMS)), "new"]
    items = pd.DataFrame({"item_id": names, "title": [f"Film {name}" for name in names]})
    return write_preferences(folder, splits, items.assign(popularity=1, category="drama"))


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a version whose generator is co-occurrence."""
    folder = tmp_path_factory.mktemp("published")
    preferences = write_preferences(folder / "preferences")
    fingerprint = read_manifest(preferences).fingerprint
    model = write_model(folder / "model", seed=1, preferences=fingerprint)
    return publish(folder, preferences, model, generator="cooccurrence")


def test_version_holds_its_generators(version: Path) -> None:
    card = json.loads((version / "card.json").read_text())
    assert (card["generator"], card["proposals"]) == ("cooccurrence", 10)
    assert card["base_revision"] == "main"
    items = read_items(version)
    rows = read_rows(write_preferences(version.parent / "again"), "test")
    for kind in ("sasrec", "cooccurrence"):
        assert read_generator(version, kind, items)(rows).shape == (len(rows), len(items))


@pytest.mark.parametrize("given", ["folder", "model"])
def test_version_is_evaluated_with_its_own_generator_and_ranks_new_items_last(
    given: str, version: Path, tmp_path: Path
) -> None:
    fresh = grown(tmp_path / "fresh")
    new_model = write_model(tmp_path / "new", num_items=[*map(str, range(NUM_ITEMS)), "new"])
    old = version if given == "folder" else version / "model"
    settings = {**FAST, "generator": "sasrec", "candidates": "listed,catalogue"}
    output = tmp_path / "out"
    manifest = evaluate(fresh, {"old": old, "new": new_model}, output, EvaluationConfig(**settings))
    assert manifest.extra["generators"] == {"old": "cooccurrence", "new": "sasrec"}
    assert any("old does not know the next item of" in text for text in manifest.extra["warnings"])
    rows = read_rows(fresh, "test").to_pylist()
    ranks = pq.read_table(output / "old" / "ranks.parquet").to_pylist()
    everywhere = pq.read_table(output / "old" / "catalogue" / "ranks.parquet").to_pylist()
    table = served(output, "old")
    for number, row in enumerate(rows):
        if row["history"] == ["new"]:
            # Nothing is known of such a row: all candidates are tied.
            assert (ranks[number]["better"], ranks[number]["tied"]) == (0, 5)
        elif row["target"] == "new":
            assert (ranks[number]["better"], ranks[number]["tied"]) == (5, 0)
            others = NUM_ITEMS - len({*row["history"]} - {"new"})
            assert (everywhere[number]["better"], everywhere[number]["tied"]) == (others, 0)
            assert not table["is_listed"][number]
    known = [number for number, row in enumerate(rows) if row["target"] != "new"]
    assert table["is_listed"][known].any()


@pytest.mark.parametrize("kept", ["nothing", "cooccurrence"])
def test_version_that_names_no_generator_serves_as_a_new_model(
    kept: str, version: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "version"
    shutil.copytree(version, copy)
    card = json.loads((copy / "card.json").read_text())
    card["generator"] = "none"
    if kept == "nothing":
        # As versions were published before they held generators.
        shutil.rmtree(copy / "generators")
        del card["generator"], card["proposals"]
    else:
        (copy / "generators" / "sasrec.safetensors").unlink()
    (copy / "card.json").write_text(json.dumps(card))
    preferences = version.parent / "preferences"
    models = {"old": copy, "new": version.parent / "model"}
    output = tmp_path / "out"
    config = EvaluationConfig(**FAST, generator="sasrec")
    manifest = evaluate(preferences, models, output, config)
    assert manifest.extra["generators"] == {"old": "sasrec", "new": "sasrec"}
    assert served(output, "old").equals(served(output, "new"))


def test_version_that_can_read_no_row_answers_none(version: Path, tmp_path: Path) -> None:
    items = read_items(version)
    rows = {split: preference_rows(split) for split in ("train", "validation", "test")}
    for row in rows["test"]:
        row["history"] = ["new"]
    new = pd.DataFrame([{"item_id": "new", "title": "New", "popularity": 1, "category": "drama"}])
    preferences = write_preferences(tmp_path / "rows", rows, pd.concat([items, new]))
    config = EvaluationConfig(**FAST, generate=True, sasrec=False)
    manifest = evaluate(preferences, {"old": version}, tmp_path / "out", config)
    assert manifest.counts["test_valid_ratio"] == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"generator": "als", "proposals": 10}'])
def test_version_of_an_unknown_generator_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(DataError, match="card.json: must be"):
        read_version_generator(tmp_path)


def test_version_of_another_catalogue_is_refused(version: Path, tmp_path: Path) -> None:
    rows = {split: preference_rows(split) for split in ("train", "validation", "test")}
    for row in (row for split in rows.values() for row in split):
        for name in ("history", "candidates", "rejected"):
            row[name] = [f"x{item}" for item in row[name]]
        row["target"] = f"x{row['target']}"
    names = [f"x{item}" for item in range(NUM_ITEMS)]
    items = pd.DataFrame({"item_id": names, "title": names, "popularity": 1, "category": ""})
    other = write_preferences(tmp_path / "other", rows, items)
    with pytest.raises(DataError, match="a version must know some items of the rows"):
        evaluate(other, {"old": version}, tmp_path / "out", EvaluationConfig(**FAST))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "pairs", "absent"])
def test_damaged_generator_is_named(damage: str, version: Path, tmp_path: Path) -> None:
    copy = tmp_path / "version"
    shutil.copytree(version, copy)
    items = read_items(copy)
    kind = "cooccurrence" if damage == "pairs" else "sasrec"
    (path,) = (copy / "generators").glob(f"{kind}.*")
    if damage == "absent":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        table = pq.read_table(path).to_pandas().assign(item=99)
        table.to_parquet(path)
    with pytest.raises(DataError, match=f"{kind}.* must be .*again"):
        read_generator(copy, kind, items)


def test_generators_of_other_rows_are_not_published(version: Path, tmp_path: Path) -> None:
    folder = version.parent
    source = VersionSource(folder / "model", folder / "evaluation", folder / "preferences")
    others = grown(tmp_path / "others")
    evaluate(others, {"old": version}, tmp_path / "evaluation", EvaluationConfig(**FAST))
    with pytest.raises(DataError, match="must be an evaluation on rows of"):
        make_version(source._replace(evaluation=tmp_path / "evaluation"), str(tmp_path / "store"))
