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
from dynamicpo.evaluation import beside, catalogue_time, evaluated_models, served_models
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
from dynamicpo.evaluation.rankings import rank_listed
from dynamicpo.evaluation.results import EvaluatedRows, RankedItems, make_result
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


def expected_proposals(preferences: Path, evaluation: Path) -> list[list[str]]:
    """The items of each row's list: co-occurrence's first, popular ones first of equals."""
    items = read_items(preferences)
    scores = read_generator(evaluation, "cooccurrence", items)(read_rows(preferences, "test"))
    popularity = items["popularity"].to_numpy()
    ids = items["item_id"].tolist()
    lists = []
    for row, score in zip(preference_rows("test"), scores, strict=True):
        allowed = [code for code, item in enumerate(ids) if item not in row["history"]]
        order = np.lexsort((allowed, -popularity[allowed], -score[allowed]))
        lists.append([ids[allowed[place]] for place in order[:PROPOSALS]])
    return lists


def expected_places(preferences: Path, evaluation: Path, model: Path) -> list[int | None]:
    """The place of each row's next item among proposals, by a model's scores of all items."""
    source = read_manifest(preferences)
    everything = read_all_items(SplitTables(preferences), source, config())
    scores = all_item_scores(RankingModel(load_model(model), config(), "m"), everything)
    codes = {item: code for code, item in enumerate(everything.items["item_id"])}
    places = []
    lists = expected_proposals(preferences, evaluation)
    for row, listed, score in zip(preference_rows("test"), lists, scores, strict=True):
        target = row["target"]
        better = sum(score[codes[item]] > score[codes[target]] for item in listed)
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
    # The lists are ranked as ever.
    of_lists = (proposed / name / "ranks.parquet").read_bytes()
    assert of_lists == (exact / name / "ranks.parquet").read_bytes()
    assert not (proposed / name / "catalogue").exists()
    assert not (exact / name / "proposed").exists()


def test_users_to_look_at_are_shown_proposals(preferences: Path, proposed: Path) -> None:
    rows = preference_rows("test")
    proposals = expected_proposals(preferences, proposed)
    lists = {row["example_id"]: listed for row, listed in zip(rows, proposals, strict=True)}
    for name in ("titles", "sasrec"):
        shown = pq.read_table(proposed / name / "top_items.parquet").to_pylist()
        assert len(shown) == len({row["user_id"] for row in rows})
        for row in shown:
            assert len(row["items"]) == 5
            assert {*row["items"]} <= {*lists[row["example_id"]]}


def test_of_equals_the_first_proposal_is_no_better(proposed: Path) -> None:
    best = {
        name: pq.read_table(proposed / name / "proposed" / "ranks.parquet")["best"].to_pylist()
        for name in ("random", "cooccurrence")
    }
    # Chance scores all items alike.
    same = np.mean([one == other for one, other in zip(*best.values(), strict=True)])
    assert same < 0.5


def test_protocol_warning_and_page_say_what_was_ranked(proposed: Path, exact: Path) -> None:
    extra = read_manifest(proposed).extra
    of_proposals = extra["protocol"]["proposed"]
    of_all = read_manifest(exact).extra["protocol"]["catalogue"]
    assert "catalogue" not in extra["protocol"]
    assert of_proposals["candidates"] == "first 10 of cooccurrence"
    assert of_proposals["num_candidates"] == PROPOSALS
    assert of_proposals["rows"] != of_all["rows"]
    (warning,) = (text for text in extra["warnings"] if "every item" in text)
    assert "the first 10 items of cooccurrence instead" in warning
    assert "--catalogue-minutes 0 ranks all" in warning
    page = (proposed / "report.html").read_text(encoding="utf-8")
    assert "the first 10 items of cooccurrence instead" in page
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


def test_evaluations_of_a_run_can_be_compared(
    slow: None, preferences: Path, models: dict[str, Path], proposed: Path, tmp_path: Path
) -> None:
    # As the pipelines evaluate: SFT with all baselines, every objective with those of no training.
    other = write_title_model(tmp_path / "dpo", seed=3)
    settings = {"sft": config(base=True, generator="sasrec"), "dpo": config(sasrec=False, seed=1)}
    folders = {"sft": models["titles"], "dpo": other}
    for name, chosen in settings.items():
        evaluate(preferences, {name: folders[name]}, tmp_path / f"{name}-evaluation", chosen)
    evaluations = [tmp_path / f"{name}-evaluation" for name in settings]
    compare_evaluations(evaluations, tmp_path / "comparison")
    pairs = read_json(tmp_path / "comparison" / "proposed_comparisons.json")
    assert ("dpo", "sft") in [(pair["a"], pair["b"]) for pair in pairs]
    page = (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
    assert "ranks first of what a candidate generator proposes" in page


def test_lists_of_another_length_are_another_protocol(
    slow: None, preferences: Path, models: dict[str, Path], proposed: Path, tmp_path: Path
) -> None:
    evaluate(preferences, models, tmp_path / "other", config(sasrec=False, proposals=11))
    with pytest.raises(DataError, match="differ in proposed"):
        compare_evaluations([proposed, tmp_path / "other"], tmp_path / "both")


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
    titles = {"titles": models["titles"]}
    evaluate(preferences, titles, tmp_path / "own", config(generator="cooccurrence"))
    twice = [("titles", "listed"), ("titles", "proposed")]
    assert ranked == twice
    metrics = read_json(tmp_path / "own" / "titles" / "metrics.json")
    assert metrics["test_served_ndcg_at_10"] == metrics["test_proposed_ndcg_at_10"]
    # Another generator serves something else.
    ranked.clear()
    evaluate(preferences, titles, tmp_path / "other", config(generator="sasrec"))
    assert ranked == [*twice, ("titles, as it serves", "proposed")]
    metrics = read_json(tmp_path / "other" / "titles" / "metrics.json")
    assert metrics["test_served_ndcg_at_10"] != metrics["test_proposed_ndcg_at_10"]


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
    # The slowest model's: each is ranked alike, wherever it is evaluated.
    assert minutes_of_catalogue(models, everything, config()) == whole
    assert minutes_of_catalogue({"compact": models["compact"]}, everything, config()) == 0


def test_lists_shorter_than_the_cut_off_are_not_taken(
    slow: None,
    preferences: Path,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(beside, "_FEWEST", PROPOSALS + 1)
    evaluate(preferences, models, tmp_path / "out", config(sasrec=False))
    assert "catalogue" in read_manifest(tmp_path / "out").extra["protocol"]


def test_what_is_not_proposed_is_missed_however_short_the_list() -> None:
    codes = np.array([[0, 1, 2], [3, 4, 5]])
    places = np.array([1, -1])
    rows = EvaluatedRows("test", ["a", "b"], ["u", "v"], places)
    ranking = rank_listed(np.array([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0]]), places, codes)
    result = make_result(rows, ranking, RankedItems([*"012345"], np.ones(6, np.int64)), 100, 0)
    for metric in ("hit_ratio_at_3", "ndcg_at_3", "mrr"):
        assert result.metric(metric) == 0.5
    assert result.row_values("ndcg_at_10").tolist() == [1, 0]


def test_without_models_all_items_are_ranked(slow: None, preferences: Path, tmp_path: Path) -> None:
    evaluate(preferences, {}, tmp_path / "out", config())
    assert "catalogue" in read_manifest(tmp_path / "out").extra["protocol"]
