"""Comparison of evaluations: same rows and protocol, or a clear refusal."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.evaluation.comparison import compare_evaluations
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.evaluation.scorecard import scorecard
from dynamicpo.reports.pages.comparisons import PairedComparison
from tests.fixtures.folders import NUM_ITEMS, write_model, write_preferences

CONFIG = EvaluationConfig(sasrec=False, resamples=100)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluations of single models, as the pipeline makes them; titles that look like markup."""
    folder = tmp_path_factory.mktemp("comparison")
    names = [str(item) for item in range(NUM_ITEMS)]
    titles = [f"<script>alert({name})</script>" for name in names]
    items = pd.DataFrame(
        {"item_id": names, "title": titles, "popularity": range(NUM_ITEMS), "category": ""}
    )
    preferences = write_preferences(folder / "preferences", items=items)
    for seed, name in enumerate(("sft", "dmpo", "dynamicpo")):
        log = '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n'
        model = write_model(folder / name, seed=seed, training_log=log)
        evaluate(preferences, {name: model}, folder / f"evaluation-{name}", CONFIG)
    return folder


def read(output: Path) -> dict:
    return json.loads((output / "comparison.json").read_text(encoding="utf-8"))


def compare(root: Path, output: Path, *names: str) -> Manifest:
    return compare_evaluations([root / f"evaluation-{name}" for name in names], output)


def test_models_of_several_evaluations_stand_together(root: Path, tmp_path: Path) -> None:
    manifest = compare(root, tmp_path / "out", "dmpo", "sft", "dynamicpo")
    comparison = read(tmp_path / "out")
    assert {*comparison["metrics"]} == {
        "random",
        "popularity",
        "cooccurrence",
        "sft",
        "dmpo",
        "dynamicpo",
    }
    for name in ("sft", "dmpo", "dynamicpo"):
        metrics = json.loads((root / f"evaluation-{name}" / name / "metrics.json").read_text())
        assert comparison["metrics"][name] == metrics
        assert manifest.counts[f"{name}_test_mrr"] == metrics["test_mrr"]
    pairs = [(entry["a"], entry["b"]) for entry in comparison["comparisons"]]
    assert pairs[:2] == [("dmpo", "sft"), ("dynamicpo", "sft")]
    models, baselines = ("sft", "dmpo", "dynamicpo"), ("popularity", "cooccurrence")
    assert pairs[2:] == [(name, baseline) for baseline in baselines for name in models]
    assert comparison["differences"]["seed"] == {"sft": 0, "dmpo": 1, "dynamicpo": 2}
    lines = (tmp_path / "out" / "table.md").read_text(encoding="utf-8").splitlines()
    order = ["random", "popularity", "cooccurrence", "sft", "dmpo", "dynamicpo"]
    assert [line.split("|")[1].strip() for line in lines[2:8]] == order
    assert lines[8:] == ["", "Weights of each training: last (sft, dmpo, dynamicpo)."]


def test_the_scorecard_has_a_row_for_each_model_and_each_pair_of_models(
    root: Path, tmp_path: Path
) -> None:
    manifest = compare(root, tmp_path / "out", "sft", "dmpo", "dynamicpo")
    comparison = read(tmp_path / "out")
    expected = {
        f"{name}_hit_ratio_at_1": round(metrics["test_hit_ratio_at_1"], 3)
        for name, metrics in comparison["metrics"].items()
    }
    for entry in comparison["comparisons"]:
        if entry["b"] == "sft":
            pair = f"{entry['a']}_minus_sft"
            keys = {pair: "difference", f"{pair}_low": "low", f"{pair}_high": "high"}
            expected |= {key: round(entry[name], 3) for key, name in keys.items()}
    assert len(expected) == 6 + 2 * 3
    assert manifest.extra["scorecard"] == expected


def test_a_difference_without_bounds_is_one_row() -> None:
    """Rows of a single user have no interval."""
    comparison: PairedComparison = {
        "a": "dmpo",
        "b": "sft",
        "metric": "test_hit_ratio_at_1",
        "difference": -0.12345,
        "low": None,
        "high": None,
    }
    metrics = {"dmpo": {"validation_hit_ratio_at_1": 0.98765, "validation_mrr": 0.5}}
    assert scorecard(metrics, [comparison, {**comparison, "b": "popularity"}]) == {
        "dmpo_hit_ratio_at_1": 0.988,
        "dmpo_minus_sft": -0.123,
    }


def test_paired_differences_are_those_of_one_evaluation_of_all(root: Path, tmp_path: Path) -> None:
    models = {name: root / name for name in ("sft", "dmpo", "dynamicpo")}
    evaluate(root / "preferences", models, tmp_path / "together", CONFIG)
    together = json.loads((tmp_path / "together" / "comparisons.json").read_text())
    compare(root, tmp_path / "out", "sft", "dmpo", "dynamicpo")
    assert read(tmp_path / "out")["comparisons"] == together


def test_the_page_shows_curves_and_rows_with_titles_as_text(root: Path, tmp_path: Path) -> None:
    compare(root, tmp_path / "out", "sft", "dynamicpo")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(" in page
    assert "Rows won by a" in page and "Paired differences" in page and "curves" in page
    assert "What differs between the models" in page and "What differs between the runs" not in page


def test_one_evaluation_alone_is_shown(root: Path, tmp_path: Path) -> None:
    compare(root, tmp_path / "out", "sft")
    assert [(e["a"], e["b"]) for e in read(tmp_path / "out")["comparisons"]] == [
        ("sft", "popularity"),
        ("sft", "cooccurrence"),
    ]


def test_the_same_model_counts_once_and_different_ones_of_a_name_are_told_apart(
    root: Path, tmp_path: Path
) -> None:
    evaluate(root / "preferences", {"sft": root / "dmpo"}, tmp_path / "renamed", CONFIG)
    folders = {
        "old": root / "evaluation-sft",
        "new": tmp_path / "renamed",
        "again": root / "evaluation-sft",
    }
    compare_evaluations(folders, tmp_path / "out")
    models = [name for name in read(tmp_path / "out")["metrics"] if "sft" in name]
    assert sorted(models) == ["new/sft", "old/sft"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score": "pmi"}, r"differ in score \(sum and pmi\)"),
        ({"rows": 20}, r"differ in num_rows \(30 and 20\), rows \("),
        ({"split": "validation"}, r"differ in rows .*, split \(test and validation\)"),
    ],
)
def test_other_protocols_and_rows_are_refused(
    changed: dict, message: str, root: Path, tmp_path: Path
) -> None:
    evaluate(
        root / "preferences",
        {},
        tmp_path / "other",
        EvaluationConfig(sasrec=False, resamples=100, **changed),
    )
    with pytest.raises(DataError, match=message):
        compare_evaluations([root / "evaluation-sft", tmp_path / "other"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_evaluation_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs at least one evaluation"):
        compare_evaluations([], tmp_path / "out")
    with pytest.raises(DataError, match="must be the output of evaluate, but it comes from sft"):
        compare_evaluations([root / "sft"], tmp_path / "out")
    with pytest.raises(DataError, match="is not finished"):
        (tmp_path / "unfinished").mkdir()
        compare_evaluations([tmp_path / "unfinished"], tmp_path / "out")


def test_an_evaluation_of_an_earlier_version_is_refused(root: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(root / "evaluation-sft", old)
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["extra"]["warnings"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        DataError, match="old: must say warnings, but an earlier version of dynamicpo made it"
    ):
        compare_evaluations([root / "evaluation-sft", old], tmp_path / "out")


@pytest.mark.parametrize("setting", ["resamples", "seed"])
def test_an_evaluation_without_a_setting_is_refused(
    root: Path, tmp_path: Path, setting: str
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(root / "evaluation-sft", damaged)
    manifest = json.loads((damaged / "manifest.json").read_text())
    del manifest["config"][setting]
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"damaged/manifest.json: .*{setting}"):
        compare_evaluations([damaged], tmp_path / "out")


def test_the_same_gives_the_same_bytes_and_is_used_again(root: Path, tmp_path: Path) -> None:
    first = compare(root, tmp_path / "first", "sft", "dmpo")
    compare(root, tmp_path / "second", "sft", "dmpo")
    for name in ("comparison.json", "table.md", "report.html", "manifest.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert compare(root, tmp_path / "first", "sft", "dmpo") == first
