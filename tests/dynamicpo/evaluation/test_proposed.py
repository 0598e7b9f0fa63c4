"""A catalogue that would take too long to rank: a generator's proposals stand in its place."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.config_checkpoints import CheckpointConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.evaluation import catalogue_time, evaluated_models, served_models
from dynamicpo.evaluation.candidates import (
    ModelRanking,
    RankingModel,
    all_item_scores,
    rank_with_model,
)
from dynamicpo.evaluation.catalogue_time import minutes_of_catalogue
from dynamicpo.evaluation.comparison import compare_evaluations
from dynamicpo.evaluation.costs import read_costs
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.evaluation.generators import read_generator
from dynamicpo.evaluation.rows import EvaluationData, SplitTables, read_all_items
from dynamicpo.models.checkpoints import load_model
from dynamicpo.promotion.gate_rows import read_gate_result
from tests.fixtures.folders import (
    NUM_ITEMS,
    preference_rows,
    write_model,
    write_preferences,
    write_title_model,
)

PROPOSALS = 10
NAMES = ("random", "popularity", "cooccurrence", "sasrec", "titles", "compact")
# Half an operation a second.
SLOW = {"cpu": catalogue_time._Speed(0.5, 1.0)}


def config(**settings: Any) -> EvaluationConfig:
    chosen = {"candidates": "listed,catalogue", "proposals": PROPOSALS, "resamples": 100}
    return EvaluationConfig(**(chosen | settings))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "titles": write_title_model(folder / "titles"),
        "compact": write_model(folder / "compact", seed=1),
    }


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_preferences(tmp_path_factory.mktemp("rows") / "preferences")


@pytest.fixture(scope="module")
def exact(
    preferences: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("exact") / "evaluation"
    evaluate(preferences, models, output, config())
    return output


@pytest.fixture(scope="module")
def proposed(
    preferences: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("proposed") / "evaluation"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue_time, "_SPEEDS", SLOW)
        evaluate(preferences, models, output, config())
    return output


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_time, "_SPEEDS", SLOW)


def expected_places(preferences: Path, evaluation: Path, model: Path) -> list[int | None]:
    """The place of each row's next item among the proposals of SASRec, by all scores of a model."""
    items = read_items(preferences)
    scorer = read_generator(evaluation, "sasrec", items)
    proposal_scores = scorer(read_rows(preferences, "test"))
    source = read_manifest(preferences)
    everything = read_all_items(SplitTables(preferences), source, config())
    loaded = load_model(model)
    scores = all_item_scores(RankingModel(loaded, config(), "m"), everything)
    codes = {item: code for code, item in enumerate(items["item_id"])}
    places = []
    for number, row in enumerate(preference_rows("test")):
        allowed = [code for item, code in codes.items() if item not in row["history"]]
        allowed.sort(key=lambda code: -proposal_scores[number, code])
        listed = allowed[:PROPOSALS]
        target = codes[row["target"]]
        better = sum(scores[number, code] > scores[number, target] for code in listed)
        places.append(int(better) if target in listed else None)
    return places


@pytest.mark.parametrize("name", ["titles", "compact"])
def test_models_rank_what_the_generator_proposes(
    name: str, preferences: Path, models: dict[str, Path], proposed: Path
) -> None:
    expected = expected_places(preferences, proposed, models[name])
    missing = sum(place is None for place in expected)
    assert 0 < missing < len(expected)
    ranks = pq.read_table(proposed / name / "proposed" / "ranks.parquet").to_pydict()
    # What is not proposed stands behind all proposals.
    behind = [PROPOSALS if place is None else place for place in expected]
    assert ranks["better"] == behind
    lengths = [PROPOSALS + (place is None) for place in expected]
    assert ranks["num_candidates"] == lengths
    gains = [0.0 if place is None else 1 / np.log2(2 + place) for place in expected]
    metrics = read_json(proposed / name / "metrics.json")
    assert metrics["test_proposed_ndcg_at_10"] == pytest.approx(np.mean(gains))
    hits = 1 - missing / len(expected)
    assert metrics["test_proposed_hit_ratio_at_10"] == pytest.approx(hits)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_named_as_if_the_catalogue_had_been_ranked(
    name: str, proposed: Path, exact: Path
) -> None:
    metrics = read_json(proposed / name / "metrics.json")
    exact_metrics = read_json(exact / name / "metrics.json")
    bounds = ("", "_low", "_high")
    beside = {f"{metric}{end}" for metric in ("hit_ratio_at_10", "ndcg_at_10") for end in bounds}
    assert {*metrics} - {*exact_metrics} == {f"test_proposed_{metric}" for metric in beside}
    assert {*exact_metrics} - {*metrics} == {f"test_catalogue_{metric}" for metric in beside}
    # The lists are ranked as ever, and so are all items for the users to look at.
    for file in ("ranks.parquet", "top_items.parquet"):
        assert (proposed / name / file).read_bytes() == (exact / name / file).read_bytes()
    assert not (proposed / name / "catalogue").exists()
    assert not (exact / name / "proposed").exists()


def test_generator_ranks_its_own_proposals_as_all_items(proposed: Path, exact: Path) -> None:
    metrics = read_json(proposed / "sasrec" / "metrics.json")
    exact_metrics = read_json(exact / "sasrec" / "metrics.json")
    for metric in ("hit_ratio_at_10", "ndcg_at_10"):
        of_all = exact_metrics[f"test_catalogue_{metric}"]
        assert metrics[f"test_proposed_{metric}"] == pytest.approx(of_all)


def test_protocol_warning_and_page_say_what_was_ranked(proposed: Path, exact: Path) -> None:
    extra = read_manifest(proposed).extra
    of_proposals = extra["protocol"]["proposed"]
    of_all = read_manifest(exact).extra["protocol"]["catalogue"]
    assert "catalogue" not in extra["protocol"]
    assert of_proposals["candidates"] == "first 10 of sasrec"
    assert of_proposals["num_candidates"] == PROPOSALS
    assert of_proposals["rows"] != of_all["rows"]
    (warning,) = (text for text in extra["warnings"] if "every item" in text)
    assert "the first 10 items of sasrec instead" in warning
    assert "--catalogue-minutes 0 ranks all" in warning
    page = (proposed / "report.html").read_text(encoding="utf-8")
    assert "the first 10 items of sasrec instead" in page
    assert "mong what a candidate generator proposes" in page
    assert "the whole catalogue" not in page
    assert read_manifest(exact).extra["warnings"] == []
    assert {*read_costs(proposed)["titles"]} == {"listed", "proposed"}


def test_differences_are_paired_and_compared_with_none_of_the_catalogue(
    proposed: Path, exact: Path, tmp_path: Path
) -> None:
    pairs = read_json(proposed / "proposed_comparisons.json")
    assert {pair["metric"] for pair in pairs} == {"test_proposed_ndcg_at_10"}
    assert not (proposed / "catalogue_comparisons.json").exists()
    compare_evaluations([proposed], tmp_path / "alone")
    assert read_json(tmp_path / "alone" / "proposed_comparisons.json") == pairs
    page = (tmp_path / "alone" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Paired differences among what a candidate generator proposes</h2>" in page
    with pytest.raises(DataError, match="differ in catalogue .*, proposed"):
        compare_evaluations([proposed, exact], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_lists_of_another_generator_are_another_protocol(
    slow: None, preferences: Path, models: dict[str, Path], proposed: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    evaluate(preferences, models, other, config(sasrec=False))
    protocol = read_manifest(other).extra["protocol"]["proposed"]
    assert protocol["candidates"] == "first 10 of cooccurrence"
    with pytest.raises(DataError, match="differ in proposed"):
        compare_evaluations([proposed, other], tmp_path / "both")


@pytest.mark.parametrize(
    "settings",
    [
        {"catalogue_minutes": 0},
        {"generator": "catalogue"},
        {"proposals": NUM_ITEMS},
        {"candidates": "catalogue"},
    ],
    ids=str,
)
def test_all_items_are_ranked_where_that_was_asked_for(
    settings: dict[str, Any],
    slow: None,
    preferences: Path,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    evaluate(preferences, models, tmp_path / "out", config(sasrec=False, **settings))
    protocol = read_manifest(tmp_path / "out").extra["protocol"]
    assert "proposed" not in protocol
    assert "full-catalogue" in (
        protocol["candidates"],
        protocol.get("catalogue", {}).get("candidates"),
    )


def test_items_of_one_token_are_all_ranked(
    slow: None, preferences: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    evaluate(preferences, {"m": models["compact"]}, tmp_path / "out", config(sasrec=False))
    assert "catalogue" in read_manifest(tmp_path / "out").extra["protocol"]


def test_what_is_served_is_not_ranked_again(
    slow: None,
    preferences: Path,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranked = []

    def rank(ranking_model: RankingModel, data: EvaluationData) -> ModelRanking:
        ranked.append((ranking_model.label, data.kind))
        return rank_with_model(ranking_model, data)

    for module in (evaluated_models, served_models):
        monkeypatch.setattr(module, "rank_with_model", rank)
    settings = config(sasrec=False, generator="cooccurrence")
    evaluate(preferences, {"titles": models["titles"]}, tmp_path / "out", settings)
    assert ranked == [("titles", "listed"), ("titles", "proposed")]
    metrics = read_json(tmp_path / "out" / "titles" / "metrics.json")
    assert metrics["test_served_ndcg_at_10"] == metrics["test_proposed_ndcg_at_10"]


def test_answers_are_generated_for_the_lists_alone(
    slow: None, preferences: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    settings = config(sasrec=False, generate=True, rows=4)
    evaluate(preferences, {"titles": models["titles"]}, tmp_path / "out", settings)
    folder = tmp_path / "out" / "titles"
    assert None not in pq.read_table(folder / "ranks.parquet")["generated"].to_pylist()
    beside = pq.read_table(folder / "proposed" / "ranks.parquet")
    assert {*beside["generated"].to_pylist()} == {None}


def test_a_gate_reads_what_was_ranked_beside_the_lists(proposed: Path, exact: Path) -> None:
    names = {"proposed_ndcg_at_10", "catalogue_ndcg_at_10"}
    result = read_gate_result(proposed, "titles", "test")
    assert names & {*result.metrics} == {"proposed_ndcg_at_10"}
    mean = result.metrics["proposed_ndcg_at_10"].mean()
    metrics = read_json(proposed / "titles" / "metrics.json")
    assert mean == pytest.approx(metrics["test_proposed_ndcg_at_10"])
    assert names & {*read_gate_result(exact, "titles", "test").metrics} == {"catalogue_ndcg_at_10"}


def test_an_evaluation_that_broke_off_goes_on_to_the_same_bytes(
    slow: None,
    preferences: Path,
    models: dict[str, Path],
    proposed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = CheckpointConfig(checkpoints=str(tmp_path / "kept"), checkpoint_minutes=1e-9)
    ranked = []

    def rank(ranking_model: RankingModel, data: EvaluationData) -> ModelRanking:
        ranked.append(ranking_model.label)
        if len(ranked) == 4:
            raise KeyboardInterrupt
        return rank_with_model(ranking_model, data)

    monkeypatch.setattr(evaluated_models, "rank_with_model", rank)
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate(preferences, models, output, config(), kept)
    evaluate(preferences, models, output, config(), kept)
    for name in NAMES:
        for file in ("ranks.parquet", "proposed/ranks.parquet", "metrics.json"):
            assert (output / name / file).read_bytes() == (proposed / name / file).read_bytes()
    costs = read_costs(output)
    assert costs["titles"]["proposed"]["rows_from_shards"] == len(preference_rows("test"))


def test_the_estimate_counts_work_and_not_time(
    preferences: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = read_manifest(preferences)
    everything = read_all_items(SplitTables(preferences), source, config())
    titles = {"titles": models["titles"]}

    def minutes(**settings: Any) -> float:
        return minutes_of_catalogue(titles, everything, config(**settings))

    # A token's operations take two seconds for each weight here.
    monkeypatch.setattr(catalogue_time, "_SPEEDS", {"cpu": catalogue_time._Speed(1.0, 0.0)})
    whole = minutes()
    network = load_model(models["titles"]).model
    num_weights = sum(weight.numel() for weight in network.parameters())
    # A prompt: the titles of a history, "Film 3 ," each, and the arrow. The tree behind it: "Film",
    # and a number for each item, before the end of the text.
    lengths = [len(row["history"]) for row in preference_rows("test")]
    prompt_tokens = sum(3 * length + 1 for length in lengths)
    tree_tokens = len(lengths) * (1 + NUM_ITEMS)
    assert whole == pytest.approx(2 * num_weights * (prompt_tokens + tree_tokens) / 60)
    assert minutes(backend="plain") > 2 * whole
    both = minutes_of_catalogue({**titles, "again": models["titles"]}, everything, config())
    assert both == pytest.approx(2 * whole)
    assert minutes_of_catalogue({"compact": models["compact"]}, everything, config()) == 0


def test_without_models_all_items_are_ranked(slow: None, preferences: Path, tmp_path: Path) -> None:
    evaluate(preferences, {}, tmp_path / "out", config())
    assert "catalogue" in read_manifest(tmp_path / "out").extra["protocol"]
