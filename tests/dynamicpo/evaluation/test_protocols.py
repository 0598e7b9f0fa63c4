"""Listed candidates and the whole catalogue in one evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.evaluation import candidates
from dynamicpo.evaluation.comparison import compare_evaluations
from dynamicpo.evaluation.costs import read_costs
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.evaluation.result_files import read_result
from tests.fixtures.folders import write_model, write_preferences, write_title_model

BOTH = "listed,catalogue"
METRICS = ("hit_ratio_at_10", "ndcg_at_10")
NAMES = ("random", "popularity", "cooccurrence", "sasrec", "sft", "dynamicpo")


def config(kind: str, **settings: Any) -> EvaluationConfig:
    return EvaluationConfig(candidates=kind, resamples=100, **settings)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, two models, and their evaluations by lists, by the catalogue and by both."""
    folder = tmp_path_factory.mktemp("protocols")
    write_preferences(folder / "preferences")
    models = {
        "sft": write_model(folder / "sft", seed=1),
        "dynamicpo": write_model(folder / "dynamicpo", seed=2),
    }
    for kind in ("listed", "catalogue", BOTH):
        evaluate(folder / "preferences", models, folder / kind, config(kind))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_each_protocol_has_the_files_that_it_has_alone(name: str, root: Path) -> None:
    beside = root / BOTH / name
    for file in ("metrics.json", "ranks.parquet"):
        alone = (root / "catalogue" / name / file).read_bytes()
        assert (beside / "catalogue" / file).read_bytes() == alone
    assert (beside / "ranks.parquet").read_bytes() == (
        root / "listed" / name / "ranks.parquet"
    ).read_bytes()


def test_costs_of_every_ranking_stand_in_the_record_of_the_run(root: Path) -> None:
    record = read_json(root / BOTH / "run.json")
    assert record["duration_seconds"] > 0
    assert {*record["costs"]} == {*NAMES}
    for name, costs in read_costs(root / BOTH).items():
        assert {*costs} == {"listed", "catalogue"}, name
        assert all(cost["seconds"] > 0 for cost in costs.values())
        assert all(cost["peak_megabytes"] > 20 for cost in costs.values())
    assert {key for costs in read_costs(root / "listed").values() for key in costs} == {"listed"}
    # Not part of the result, which is the same in every run.
    assert "run.json" not in read_manifest(root / BOTH).files
    assert "What it costs" not in (root / BOTH / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_metrics_over_the_catalogue_stand_beside_those_of_the_lists(name: str, root: Path) -> None:
    metrics = read_json(root / BOTH / name / "metrics.json")
    listed = read_json(root / "listed" / name / "metrics.json")
    catalogue = read_json(root / "catalogue" / name / "metrics.json")
    expected = {
        f"test_catalogue_{metric}{bound}": catalogue[f"test_{metric}{bound}"]
        for metric in METRICS
        for bound in ("", "_low", "_high")
    }
    assert metrics == listed | expected
    # By hand, from the ranks: a target in the first ten, discounted by its place.
    ranks = pq.read_table(root / BOTH / name / "catalogue" / "ranks.parquet")
    better, tied = ranks["better"].to_numpy(), ranks["tied"].to_numpy()
    hits = [
        np.mean([place <= 10 for place in range(above + 1, above + equal + 2)])
        for above, equal in zip(better, tied, strict=True)
    ]
    assert metrics["test_catalogue_hit_ratio_at_10"] == pytest.approx(np.mean(hits))


def test_differences_over_the_catalogue_are_paired_like_those_of_lists(root: Path) -> None:
    listed = read_json(root / BOTH / "comparisons.json")
    catalogue = read_json(root / BOTH / "catalogue_comparisons.json")
    assert listed == read_json(root / "listed" / "comparisons.json")
    pairs = [(pair["a"], pair["b"]) for pair in listed]
    assert [(pair["a"], pair["b"]) for pair in catalogue] == pairs
    assert ("dynamicpo", "sft") in pairs
    for pair in catalogue:
        assert pair["metric"] == "test_catalogue_ndcg_at_10"
        one, other = (
            read_result(root / "catalogue" / pair[side], "test").metric("ndcg_at_10")
            for side in ("a", "b")
        )
        assert pair["difference"] == pytest.approx(one - other)
        assert pair["low"] <= pair["difference"] <= pair["high"]
        assert pair["p"] <= pair["p_holm"]


def test_the_protocol_states_both_and_evaluations_of_one_alone_are_not_compared(
    root: Path, tmp_path: Path
) -> None:
    protocol = read_manifest(root / BOTH).extra["protocol"]
    alone = read_manifest(root / "catalogue").extra["protocol"]
    assert protocol["catalogue"] == alone
    assert protocol["candidates"] == "clean"
    assert "catalogue" not in read_manifest(root / "listed").extra["protocol"]
    with pytest.raises(DataError, match="differ in catalogue"):
        compare_evaluations([root / BOTH, root / "listed"], tmp_path / "out")


def test_a_comparison_has_both(root: Path, tmp_path: Path) -> None:
    manifest = compare_evaluations([root / BOTH], tmp_path / "out")
    assert manifest.counts["sasrec_test_catalogue_ndcg_at_10"] is not None
    pairs = read_json(tmp_path / "out" / "catalogue_comparisons.json")
    assert pairs == read_json(root / BOTH / "catalogue_comparisons.json")


def test_answers_may_be_generated_for_the_lists(root: Path, tmp_path: Path) -> None:
    model = write_title_model(tmp_path / "titles")
    settings = config(BOTH, generate=True, sasrec=False, rows=4)
    evaluate(root / "preferences", {"titles": model}, tmp_path / "out", settings)
    metrics = read_json(tmp_path / "out" / "titles" / "metrics.json")
    assert "test_valid_ratio" in metrics and "test_catalogue_ndcg_at_10" in metrics
    with pytest.raises(ConfigError, match="generate: an answer is looked for in a row's own list"):
        config("catalogue", generate=True)


def test_prompts_that_list_the_answer_are_refused(root: Path, tmp_path: Path) -> None:
    model = write_title_model(tmp_path / "titles", list_candidates=True)
    with pytest.raises(ConfigError, match="candidates: 'listed,catalogue' needs prompts without"):
        evaluate(root / "preferences", {"m": model}, tmp_path / "out", config(BOTH))
    assert not (tmp_path / "out").exists()


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="candidates: unknown name .catalogue,listed.; choose"):
        config("catalogue,listed")


@pytest.mark.parametrize("longest", [0, 600])
def test_a_ranking_of_all_items_that_takes_long_says_so_early(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    longest: int,
) -> None:
    monkeypatch.setattr(candidates, "_LONG_SECONDS", longest)
    model = write_title_model(tmp_path / "titles")
    settings = config("catalogue", sasrec=False, rows=12)
    evaluate(root / "preferences", {"titles": model}, tmp_path / "out", settings)
    advice = "ranking all with titles will take 0 minutes more. `--candidates listed --generator"
    assert (advice in caplog.text) == (longest == 0)
