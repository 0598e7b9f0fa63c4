"""Evaluation: scores against the model itself, protocol, names, baselines, and bad input."""

import dataclasses
import html
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from dynamicpo.core import random_keys
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.errors import CheckFailedError, ConfigError, DataError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.core.records.rows import read_items, read_rows
from dynamicpo.evaluation import evaluated_models
from dynamicpo.evaluation.comparison import compare_evaluations
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.models.checkpoints import load_model
from dynamicpo.prompts.encoding import Prompts, item_token
from dynamicpo.scoring.shared_prefix import score_rows
from tests.fixtures.folders import (
    NUM_CANDIDATES,
    NUM_ITEMS,
    preference_rows,
    rewrite_checksums,
    write_model,
    write_preferences,
    write_title_model,
)

FAST = {"resamples": 100, "sasrec": False}
CONFIG = EvaluationConfig(**FAST)
WITH_SASREC = EvaluationConfig(resamples=100)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Preferences; two models with a token for each item; one that writes titles."""
    root = tmp_path_factory.mktemp("evaluation")
    return {
        "preferences": write_preferences(root / "preferences"),
        "sft": write_model(root / "sft", seed=1),
        "dynamicpo": write_model(root / "dynamicpo", seed=2),
        "titles": write_title_model(root / "titles"),
    }


def metrics_of(output: Path, name: str) -> dict[str, Any]:
    return json.loads((output / name / "metrics.json").read_text(encoding="utf-8"))


def scores_of(output: Path, name: str) -> np.ndarray:
    return np.array(pq.read_table(output / name / "ranks.parquet")["scores"].to_pylist())


def next_token_logps(folder: Path, histories: list[list[str]]) -> list[dict[str, float]]:
    """Each item's log-probability after a start token and a history, straight from the model."""
    loaded = load_model(folder)
    known = loaded.tokenizer.get_vocab()
    logps_of_rows = []
    for history in histories:
        tokens = torch.tensor([[0, *(known[item_token(item)] for item in history)]])
        with torch.no_grad():
            logps = loaded.model(input_ids=tokens).logits[0, -1].log_softmax(-1)
        logps_of_rows.append(
            {item: float(logps[known[item_token(item)]]) for item in loaded.base.items}
        )
    return logps_of_rows


def test_scores_are_the_models_own_log_probabilities(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    evaluate(folders["preferences"], {"sft": folders["sft"]}, tmp_path / "out", CONFIG)
    rows = preference_rows("test")
    expected = next_token_logps(folders["sft"], [row["history"] for row in rows])
    wanted = [
        [logps[item] for item in row["candidates"]]
        for logps, row in zip(expected, rows, strict=True)
    ]
    assert scores_of(tmp_path / "out", "sft") == pytest.approx(np.array(wanted), abs=1e-4)
    hits = [
        max(row["candidates"], key=logps.get) == row["target"]
        for logps, row in zip(expected, rows, strict=True)
    ]
    metrics = metrics_of(tmp_path / "out", "sft")
    assert metrics["test_hit_ratio_at_1"] == pytest.approx(np.mean(hits))
    assert (
        metrics["test_hit_ratio_at_1_low"]
        <= metrics["test_hit_ratio_at_1"]
        <= metrics["test_hit_ratio_at_1_high"]
    )


def test_pmi_takes_off_what_an_item_scores_without_a_history(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    config = EvaluationConfig(score="pmi", **FAST)
    evaluate(folders["preferences"], {"sft": folders["sft"]}, tmp_path / "out", config)
    rows = preference_rows("test")
    (alone,) = next_token_logps(folders["sft"], [[]])
    logps = next_token_logps(folders["sft"], [row["history"] for row in rows])
    wanted = [
        [row_logps[item] - alone[item] for item in row["candidates"]]
        for row_logps, row in zip(logps, rows, strict=True)
    ]
    assert scores_of(tmp_path / "out", "sft") == pytest.approx(np.array(wanted), abs=1e-4)


def test_mean_divides_by_the_answers_tokens(folders: dict[str, Path], tmp_path: Path) -> None:
    for score in ("sum", "mean"):
        config = EvaluationConfig(score=score, **FAST)
        evaluate(folders["preferences"], {"titles": folders["titles"]}, tmp_path / score, config)
    total, mean = (scores_of(tmp_path / score, "titles") for score in ("sum", "mean"))
    assert mean == pytest.approx(total / 3)  # "Film", a number and the end


def test_baselines_need_no_model(folders: dict[str, Path], tmp_path: Path) -> None:
    manifest = evaluate(folders["preferences"], {}, tmp_path / "out", CONFIG)
    assert metrics_of(tmp_path / "out", "random")["test_hit_ratio_at_1"] == pytest.approx(
        1 / NUM_CANDIDATES
    )
    assert manifest.counts["random_test_mrr"] == pytest.approx(
        np.mean(1 / np.arange(1, NUM_CANDIDATES + 1))
    )
    assert json.loads((tmp_path / "out" / "comparisons.json").read_text()) == []


def test_equally_popular_candidates_share_the_hit(tmp_path: Path) -> None:
    names = [str(item) for item in range(NUM_ITEMS)]
    items = pd.DataFrame(
        {
            "item_id": names,
            "title": names,
            "popularity": [(NUM_ITEMS - item) // 4 for item in range(NUM_ITEMS)],
        }
    )
    folder = write_preferences(tmp_path / "preferences", items=items.assign(category=""))
    manifest = evaluate(folder, {}, tmp_path / "out", CONFIG)
    rows = preference_rows("test")
    counts = [[(NUM_ITEMS - int(item)) // 4 for item in row["candidates"]] for row in rows]
    target_counts = [(NUM_ITEMS - int(row["target"])) // 4 for row in rows]
    hits = [
        (count == max(listed)) / listed.count(count)
        for count, listed in zip(target_counts, counts, strict=True)
    ]
    assert any(0 < hit < 1 for hit in hits)
    assert manifest.counts["popularity_test_hit_ratio_at_1"] == pytest.approx(np.mean(hits))


def test_one_model_gives_its_metrics_and_several_give_them_by_name(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    models = {name: folders[name] for name in ("sft", "dynamicpo")}
    one = evaluate(folders["preferences"], {"sft": folders["sft"]}, tmp_path / "one", CONFIG)
    two = evaluate(folders["preferences"], models, tmp_path / "two", CONFIG)
    assert one.counts == metrics_of(tmp_path / "one", "sft")
    assert {name.removeprefix("sft_") for name in two.counts if name.startswith("sft_")} == {
        *one.counts
    }
    assert metrics_of(tmp_path / "one", "sft") == metrics_of(tmp_path / "two", "sft")
    names = {path.parent.name for path in (tmp_path / "two").glob("*/ranks.parquet")}
    assert names == {"random", "popularity", "cooccurrence", "sft", "dynamicpo"}
    pairs = [
        (e["a"], e["b"]) for e in json.loads((tmp_path / "two" / "comparisons.json").read_text())
    ]
    baselines = [(name, baseline) for baseline in ("popularity", "cooccurrence") for name in models]
    assert pairs == [("dynamicpo", "sft"), *baselines]


def test_the_base_is_the_model_before_training(folders: dict[str, Path], tmp_path: Path) -> None:
    """The fixture was never trained."""
    config = EvaluationConfig(base=True, **FAST)
    for name in ("sft", "titles"):
        evaluate(folders["preferences"], {name: folders[name]}, tmp_path / name, config)
        assert scores_of(tmp_path / name, "base") == pytest.approx(
            scores_of(tmp_path / name, name), abs=1e-5
        )


def test_the_protocol_is_stated(folders: dict[str, Path], tmp_path: Path) -> None:
    manifest = evaluate(
        folders["preferences"], {}, tmp_path / "out", EvaluationConfig(split="validation", **FAST)
    )
    protocol = manifest.extra["protocol"]
    assert {name: protocol[name] for name in protocol if name != "rows"} == {
        "candidates": "clean",
        "split": "validation",
        "score": "sum",
        "exclude": "window",
        "strategy": "uniform",
        "num_candidates": NUM_CANDIDATES,
        "num_rows": 30,
    }
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "split validation" in page and "exclude window" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)


def test_some_rows_are_chosen_by_key(folders: dict[str, Path], tmp_path: Path) -> None:
    prints = []
    for seed in (0, 1):
        config = EvaluationConfig(rows=7, seed=seed, **FAST)
        prints.append(
            evaluate(folders["preferences"], {}, tmp_path / str(seed), config).extra["protocol"][
                "rows"
            ]
        )
    assert prints[0] != prints[1]
    names = read_rows(folders["preferences"], "test")["example_id"].to_pylist()
    wanted = [
        names[index] for index in sorted(random_keys.random_order(0, "evaluation/test", names)[:7])
    ]
    assert (
        pq.read_table(tmp_path / "0" / "random" / "ranks.parquet")["example_id"].to_pylist()
        == wanted
    )
    assert pq.read_table(tmp_path / "0" / "rows.parquet")["example_id"].to_pylist() == wanted


def test_the_same_gives_the_same_bytes_and_is_used_again(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("first", "second"):
        evaluate(folders["preferences"], {"sft": folders["sft"]}, tmp_path / name, CONFIG)
    files = sorted(
        path.relative_to(tmp_path / "first")
        for path in (tmp_path / "first").rglob("*")
        if path.is_file()
    )
    assert len(files) > 10
    for file in files:
        if file.name != "run.json":
            assert (tmp_path / "first" / file).read_bytes() == (
                tmp_path / "second" / file
            ).read_bytes(), file
    again = evaluate(folders["preferences"], {"sft": folders["sft"]}, tmp_path / "first", CONFIG)
    assert again == read_manifest(tmp_path / "first")
    with pytest.raises(DataError, match="differs in model sft"):
        evaluate(folders["preferences"], {"sft": folders["dynamicpo"]}, tmp_path / "first", CONFIG)


def test_nan_scores_are_counted_rank_worst_and_are_warned_of(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = write_model(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    save_file(
        {name: value * float("nan") for name, value in weights.items()},
        broken / "model.safetensors",
        {"format": "pt"},
    )
    rewrite_checksums(broken)
    with caplog.at_level(logging.WARNING):
        manifest = evaluate(folders["preferences"], {"broken": broken}, tmp_path / "out", CONFIG)
    assert manifest.counts["test_nan_scores"] == 30 * NUM_CANDIDATES
    assert manifest.counts["test_hit_ratio_at_1"] == 0
    assert manifest.counts["test_mrr"] == pytest.approx(1 / NUM_CANDIDATES)
    text = f"{30 * NUM_CANDIDATES} of {30 * NUM_CANDIDATES} scores of broken are NaN"
    assert text in caplog.text and text in (tmp_path / "out" / "report.html").read_text(
        encoding="utf-8"
    )


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Preferences whose lists all have their target first."""
    splits = {}
    for split in ("train", "test"):
        rows = preference_rows(split, num_users=12)
        splits[split] = [{**row, "candidates": [row["target"], *row["rejected"]]} for row in rows]
    return write_preferences(tmp_path_factory.mktemp("leaky") / "preferences", splits)


@pytest.mark.parametrize("split", ["test", "train"])
def test_lists_that_leak_are_refused_unless_allowed(
    leaky: Path, tmp_path: Path, split: str
) -> None:
    config = EvaluationConfig(split=split, **FAST)
    with pytest.raises(
        CheckFailedError,
        match=rf"{split} split: candidate lists must not give .* HitRatio@1 1\.000 on",
    ):
        evaluate(leaky, {}, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
    manifest = evaluate(leaky, {}, tmp_path / "out", dataclasses.replace(config, allow_leak=True))
    assert manifest.extra["audit"]["hit_ratio_at_1"] == 1.0
    (line,) = manifest.extra["warnings"]
    assert line.startswith("LEAK: ") and "1.000" in line
    assert line in html.unescape((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    if split == "test":
        compare_evaluations([tmp_path / "out"], tmp_path / "compared")
        for name in ("report.html", "table.md"):
            assert line in html.unescape((tmp_path / "compared" / name).read_text(encoding="utf-8"))


def test_a_leak_of_lists_does_not_matter_where_every_item_is_ranked(
    leaky: Path, tmp_path: Path
) -> None:
    manifest = evaluate(
        leaky, {}, tmp_path / "out", EvaluationConfig(candidates="catalogue", **FAST)
    )
    assert manifest.extra["audit"] == {"skipped": "every item is ranked, so there are no lists"}
    assert manifest.extra["warnings"] == []


def allowed_items(row: dict[str, Any], rows: list[dict[str, Any]], exclude: str) -> list[str]:
    """By the definition: all items but the history, the user's past, or all the user's items."""
    excluded = {*row["history"]}
    if exclude != "window":
        for other in rows:
            earlier = int(other["example_id"].split(":")[1]) <= int(row["example_id"].split(":")[1])
            if other["user_id"] == row["user_id"] and (exclude == "all" or earlier):
                excluded |= {*other["history"], other["target"]}
    return [str(item) for item in range(NUM_ITEMS) if str(item) not in excluded - {row["target"]}]


@pytest.mark.parametrize("exclude", ["window", "past", "all"])
@pytest.mark.parametrize("name", ["sft", "titles"])
def test_every_item_is_ranked_but_what_negatives_exclude(
    folders: dict[str, Path], tmp_path: Path, name: str, exclude: str
) -> None:
    """Against lists that hold all the items a row may rank, scored the listed way."""
    folder = write_preferences(tmp_path / "preferences", protocol={"exclude": exclude})
    rows = preference_rows("test")
    config = EvaluationConfig(candidates="catalogue", **FAST)
    manifest = evaluate(folder, {name: folders[name]}, tmp_path / "out", config)
    longest = max(len(allowed_items(row, rows, exclude)) for row in rows)
    for row in rows:
        items = allowed_items(row, rows, exclude)
        row["candidates"] = items + [f"none {index}" for index in range(longest - len(items))]
    ranks = pq.read_table(tmp_path / "out" / name / "ranks.parquet").to_pydict()
    loaded = load_model(folders[name])
    for index, row in enumerate(rows):
        items = allowed_items(row, rows, exclude)
        prompts = Prompts(loaded.tokenizer, read_items(folder), loaded.settings)
        scored = score_rows(loaded.model, [prompts.row(row["example_id"], row["history"], items)])[
            0
        ].numpy()
        target_score = scored[items.index(row["target"])]
        assert ranks["better"][index] == (scored > target_score).sum()
        assert ranks["tied"][index] == 0
        assert ranks["num_candidates"][index] == len(items)
        assert ranks["best"][index] == items[int(scored.argmax())]
        assert ranks["scores"][index] == pytest.approx([target_score, scored.max()], abs=1e-5)
    protocol = manifest.extra["protocol"]
    assert (protocol["candidates"], protocol["exclude"]) == ("full-catalogue", exclude)
    assert protocol["num_candidates"] == NUM_ITEMS
    assert "full-catalogue" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    chance = np.mean([1 / len(allowed_items(row, rows, exclude)) for row in rows])
    chances = metrics_of(tmp_path / "out", "random")
    assert chances["test_hit_ratio_at_1"] == pytest.approx(chance)
    assert chances["test_catalogue_coverage"] > 0.3  # and not one item for all rows


@pytest.mark.parametrize("score", ["mean", "pmi"])
def test_other_scores_rank_every_item_too(
    folders: dict[str, Path], tmp_path: Path, score: str
) -> None:
    """The listed way with lists of all items but the history gives the same numbers."""
    rows = [row for row in preference_rows("test") if len(row["history"]) == 4]
    for row in rows:
        row["candidates"] = [
            str(item) for item in range(NUM_ITEMS) if str(item) not in row["history"]
        ]
    folder = write_preferences(
        tmp_path / "preferences", {"train": preference_rows("train"), "test": rows}
    )
    for candidates in ("listed", "catalogue"):
        config = EvaluationConfig(candidates=candidates, score=score, allow_leak=True, **FAST)
        evaluate(folder, {"m": folders["titles"]}, tmp_path / candidates, config)
    listed, catalogue = (
        metrics_of(tmp_path / candidates, "m") for candidates in ("listed", "catalogue")
    )
    assert listed == pytest.approx(catalogue)
    for name in ("random", "popularity", "cooccurrence"):
        expected = metrics_of(tmp_path / "listed", name)
        assert metrics_of(tmp_path / "catalogue", name) == pytest.approx(
            {
                **expected,
                **{
                    key: metrics_of(tmp_path / "catalogue", name)[key]
                    for key in expected
                    if tie_breaks(key)
                },
            }
        )


def tie_breaks(metric: str) -> bool:
    """Recognise metrics of the recommended item, which for equal scores is the first listed."""
    return metric in (
        "test_mean_popularity",
        "test_catalogue_coverage",
        "test_gini",
        "test_long_tail_share",
    )


def test_titles_that_read_as_the_target_are_not_ranked(tmp_path: Path) -> None:
    names = [str(item) for item in range(NUM_ITEMS)]
    items = pd.DataFrame(
        {"item_id": names, "title": [f"Film {int(name) // 2}" for name in names], "popularity": 1}
    )
    folder = write_preferences(tmp_path / "preferences", items=items.assign(category=""))
    evaluate(folder, {}, tmp_path / "out", EvaluationConfig(candidates="catalogue", **FAST))
    num_candidates = pq.read_table(tmp_path / "out" / "random" / "ranks.parquet")[
        "num_candidates"
    ].to_pylist()
    for number, row in zip(num_candidates, preference_rows("test"), strict=True):
        known = {int(item) // 2 for item in (*row["history"], row["target"])}
        assert number == NUM_ITEMS - 2 * len(known) + 1


def test_protocols_do_not_mix(folders: dict[str, Path], tmp_path: Path) -> None:
    for candidates in ("listed", "catalogue"):
        config = EvaluationConfig(candidates=candidates, **FAST)
        evaluate(folders["preferences"], {}, tmp_path / candidates, config)
    with pytest.raises(DataError, match=r"differ in candidates \(clean and full-catalogue\)"):
        compare_evaluations([tmp_path / "listed", tmp_path / "catalogue"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("protocol", "name", "strategy"),
    [
        ({"strategy": "popularity-matched"}, "popularity-matched", "popularity-matched"),
        ({"strategy": "published"}, "published", "published"),
        ({"strategy": "popularity"}, "clean, by popularity", "popularity"),
        ({"strategy": "hard", "held_out_strategy": "uniform"}, "clean", "uniform"),
    ],
)
def test_every_protocol_has_its_name(
    protocol: dict[str, str], name: str, strategy: str, tmp_path: Path
) -> None:
    folder = write_preferences(tmp_path / "preferences", protocol=protocol)
    stated = evaluate(folder, {}, tmp_path / "out", CONFIG).extra["protocol"]
    assert (stated["candidates"], stated["strategy"]) == (name, strategy)


def test_baselines_know_nothing_of_held_out_rows(folders: dict[str, Path], tmp_path: Path) -> None:
    """Other test rows: the scores of the rows that stay are the same to the bit.

    Of validation rows only SASRec knows, which stops early by them.
    """
    splits = {split: preference_rows(split) for split in ("train", "validation", "test")}
    other_test = [*splits["test"][:7], *preference_rows("test", seed=5)[7:]]
    other_validation = preference_rows("validation", seed=5)
    variants = {
        "first": splits,
        "test": {**splits, "test": other_test},
        "both": {**splits, "test": other_test, "validation": other_validation},
    }
    for name, rows in variants.items():
        folder = write_preferences(tmp_path / f"{name}-rows", rows)
        evaluate(folder, {}, tmp_path / name, WITH_SASREC)
    pairs = [("popularity", "both"), ("cooccurrence", "both"), ("sasrec", "test")]
    for name, variant in pairs:
        one = scores_of(tmp_path / "first", name)[:7]
        other = scores_of(tmp_path / variant, name)[:7]
        np.testing.assert_array_equal(one, other)
        assert np.ptp(one, axis=1).all()


def test_sasrec_stands_beside_the_other_baselines(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("first", "second"):
        evaluate(folders["preferences"], {"sft": folders["sft"]}, tmp_path / name, WITH_SASREC)
    names = {path.parent.name for path in (tmp_path / "first").glob("*/ranks.parquet")}
    assert names == {"random", "popularity", "cooccurrence", "sasrec", "sft"}
    pairs = [
        (e["a"], e["b"]) for e in json.loads((tmp_path / "first" / "comparisons.json").read_text())
    ]
    assert ("sft", "sasrec") in pairs
    assert "sasrec" in (tmp_path / "first" / "report.html").read_text(encoding="utf-8")
    files = [tmp_path / name / "sasrec" / "ranks.parquet" for name in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_sasrec_may_come_from_an_evaluation_of_the_baselines(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preferences = folders["preferences"]
    models = {"sft": folders["sft"]}
    evaluate(preferences, {}, tmp_path / "baselines", WITH_SASREC)
    evaluate(preferences, models, tmp_path / "trained", WITH_SASREC)
    monkeypatch.setattr(evaluated_models, "fit_sasrec", None)
    config = dataclasses.replace(WITH_SASREC, split="validation")
    for folder, settings in (("taken", WITH_SASREC), ("validation", config)):
        output = tmp_path / folder
        evaluate(preferences, models, output, settings, baselines=tmp_path / "baselines")
    same = ("sasrec/ranks.parquet", "comparisons.json", "generators/sasrec.safetensors")
    for path in same:
        trained = tmp_path / "trained" / path
        assert (tmp_path / "taken" / path).read_bytes() == trained.read_bytes()


def test_baselines_of_other_rows_or_another_seed_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    preferences = folders["preferences"]
    models = {"sft": folders["sft"]}
    baselines = tmp_path / "baselines"
    evaluate(preferences, {}, baselines, WITH_SASREC)
    other_rows = write_preferences(tmp_path / "rows", protocol={"strategy": "popularity"})
    with pytest.raises(ConfigError, match="seed: must be that of the baselines, 0, got 1"):
        evaluate(
            preferences,
            models,
            tmp_path / "a",
            dataclasses.replace(WITH_SASREC, seed=1),
            baselines=baselines,
        )
    with pytest.raises(DataError, match="baselines must be those of the same rows"):
        evaluate(other_rows, models, tmp_path / "b", WITH_SASREC, baselines=baselines)
    evaluate(preferences, {}, tmp_path / "without", CONFIG)
    with pytest.raises(DataError, match="must be a candidate generator as an evaluation keeps it"):
        evaluate(preferences, models, tmp_path / "c", WITH_SASREC, baselines=tmp_path / "without")
    assert not [tmp_path / name for name in "abc" if (tmp_path / name).exists()]


def test_training_logs_are_kept_for_comparisons(folders: dict[str, Path], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / "steps.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    rewrite_checksums(model)
    evaluate(folders["preferences"], {"sft": model}, tmp_path / "out", CONFIG)
    assert (tmp_path / "out" / "sft" / "steps.jsonl").read_text() == '{"step": 1, "loss": 2.0}\n'


def test_generation_answers_what_the_model_finds_most_likely(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """An item is one token, so the answer is the best of all: in some rows a candidate."""
    rows = preference_rows("test")
    logps = next_token_logps(folders["sft"], [row["history"] for row in rows])
    best = [max(row_logps, key=row_logps.get) for row_logps in logps]
    for index, (row, item) in enumerate(zip(rows, best, strict=True)):
        if index % 3 and item not in row["candidates"]:
            wrong = row["target"] if index % 3 == 1 else row["rejected"][0]
            row["candidates"][row["candidates"].index(wrong)] = item
            row["target"] = item if index % 3 == 1 else row["target"]
    preferences = write_preferences(tmp_path / "preferences", {"train": rows, "test": rows})
    config = EvaluationConfig(generate=True, **FAST)
    manifest = evaluate(preferences, {"sft": folders["sft"]}, tmp_path / "out", config)
    table = pq.read_table(tmp_path / "out" / "sft" / "ranks.parquet")
    assert table["generated"].to_pylist() == [item_token(item) for item in best]
    valid = [item in row["candidates"] for item, row in zip(best, rows, strict=True)]
    hits = [item == row["target"] for item, row in zip(best, rows, strict=True)]
    assert table["valid"].to_pylist() == valid
    assert 0 < sum(hits) < sum(valid) < 30
    assert (
        manifest.counts["test_valid_ratio"]
        == manifest.counts["test_valid_ratio_substring"]
        == np.mean(valid)
    )
    assert manifest.counts["test_generated_hit_ratio_at_1"] == pytest.approx(np.mean(hits))
    assert manifest.counts["test_generated_hit_ratio_at_1_valid_rows"] == pytest.approx(
        sum(hits) / sum(valid)
    )
    assert "test_valid_ratio" not in metrics_of(tmp_path / "out", "popularity")


def test_titles_are_generated_up_to_their_end(folders: dict[str, Path], tmp_path: Path) -> None:
    """A model whose weights make it say one film, whatever it is asked."""
    speaker = write_title_model(tmp_path / "speaker", always="Film 7")
    config = EvaluationConfig(generate=True, **FAST)
    evaluate(folders["preferences"], {"m": speaker}, tmp_path / "out", config)
    table = pq.read_table(tmp_path / "out" / "m" / "ranks.parquet")
    assert {*table["generated"].to_pylist()} == {"Film 7"}
    assert table["valid"].to_pylist() == [
        "7" in row["candidates"] for row in preference_rows("test")
    ]


def test_an_answer_is_valid_where_its_tokenizer_loses_a_part_of_the_title(tmp_path: Path) -> None:
    """Such as the space before punctuation: 'Film , 7' is read as 'Film, 7'."""
    item_ids = [str(item) for item in range(NUM_ITEMS)]
    items = pd.DataFrame({"item_id": item_ids, "title": [f"Film , {name}" for name in item_ids]})
    items = items.assign(popularity=1, category="film")
    preferences = write_preferences(tmp_path / "preferences", items=items)
    speaker = write_title_model(tmp_path / "speaker", always="Film , 7")
    settings_path = speaker / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text())
    settings_path.write_text(json.dumps({**settings, "clean_up_tokenization_spaces": True}))
    rewrite_checksums(speaker)
    config = EvaluationConfig(generate=True, **FAST)
    evaluate(preferences, {"m": speaker}, tmp_path / "out", config)
    table = pq.read_table(tmp_path / "out" / "m" / "ranks.parquet")
    assert {*table["generated"].to_pylist()} == {"Film, 7"}
    assert table["valid"].to_pylist() == [
        "7" in row["candidates"] for row in preference_rows("test")
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["random"], "must not be one of .*got 'random'"),
        (["Base"], "must not be one of .*got 'Base'"),
        (["report.html"], "must not be one of .*got 'report.html'"),
        (["../up"], "letters, digits.*got '../up'"),
        ([""], "letters, digits.*got ''"),
        (["a" * 65], "up to 64 letters"),
        (["sft", "SFT"], "must differ from the others in more than case, got 'SFT'"),
        (["a b", "popularity"], "got 'a b'.*\n.*got 'popularity'"),
    ],
)
def test_names_that_can_not_be_used(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(tmp_path / "absent", dict.fromkeys(names, tmp_path), tmp_path / "out", CONFIG)


def test_settings_that_can_not_be_used(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="base: needs a model"):
        evaluate(folders["preferences"], {}, tmp_path / "out", EvaluationConfig(base=True))
    with pytest.raises(ConfigError, match="generate: an answer is looked for in a row's own list"):
        EvaluationConfig(generate=True, candidates="catalogue")
    listing = write_title_model(tmp_path / "listing", list_candidates=True)
    with pytest.raises(
        ConfigError,
        match="candidates: 'catalogue' needs prompts without candidates, but those of m",
    ):
        evaluate(
            folders["preferences"],
            {"m": listing},
            tmp_path / "out",
            EvaluationConfig(candidates="catalogue"),
        )
    assert not (tmp_path / "out").exists()


def test_more_rows_than_there_are_mean_all_of_them(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dynamicpo.core.row_numbers")
    more = evaluate(folders["preferences"], {}, tmp_path / "more", EvaluationConfig(rows=31))
    assert "evaluation, test split: takes all 30 rows, 31 were asked for" in caplog.text
    all_rows = evaluate(folders["preferences"], {}, tmp_path / "all", EvaluationConfig())
    assert more.counts == all_rows.counts and more.extra["protocol"] == all_rows.extra["protocol"]


def test_input_that_can_not_be_used(folders: dict[str, Path], tmp_path: Path) -> None:
    rows = preference_rows("test")
    with pytest.raises(
        DataError, match="must be a model folder, but it comes from sample_negatives"
    ):
        evaluate(folders["preferences"], {"m": folders["preferences"]}, tmp_path / "out", CONFIG)
    with pytest.raises(DataError, match="does not exist"):
        evaluate(folders["preferences"], {"m": tmp_path / "absent"}, tmp_path / "out", CONFIG)
    empty = write_preferences(tmp_path / "empty", {"train": rows})
    with pytest.raises(DataError, match="must hold at least one row, got none"):
        evaluate(empty, {}, tmp_path / "out", CONFIG)
    for number, listed in enumerate((rows[3]["rejected"], rows[3]["candidates"] * 2)):
        folder = write_preferences(
            tmp_path / str(number),
            {"train": rows, "test": [*rows[:3], {**rows[3], "candidates": listed}]},
        )
        with pytest.raises(DataError, match=f"row {rows[3]['example_id']} must list its target"):
            evaluate(folder, {}, tmp_path / "out", CONFIG)
    names = [str(item) for item in range(24)]
    fewer = pd.DataFrame({"item_id": names, "title": names, "popularity": 1, "category": ""})
    small = write_model(tmp_path / "small", num_items=5)
    folder = write_preferences(tmp_path / "items", items=fewer)
    with pytest.raises(DataError, match="every item must be known to the model"):
        evaluate(folder, {"m": small}, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()
