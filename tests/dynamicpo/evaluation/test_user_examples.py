"""Users to look at: the same for all runs, the models' first items, hits marked, texts escaped."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import read_input
from dynamicpo.core.records.rows import read_items
from dynamicpo.evaluation.comparison import compare_evaluations
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.evaluation.saved import read_saved_result
from dynamicpo.evaluation.top_items import TopItems, _best_items, read_top_items
from dynamicpo.evaluation.user_examples import user_examples
from dynamicpo.reports.pages.evaluation import EvaluationReport, comparison_page
from dynamicpo.reports.pages.user_examples import ShownItems, UserExample
from tests.fixtures.folders import write_model, write_preferences, write_title_model

MODELS = ("popularity", "cooccurrence", "sft", "dynamicpo")
HOSTILE = "<script>alert(1)</script> & 'x'"


def config(candidates: str, **settings: Any) -> EvaluationConfig:
    return EvaluationConfig(candidates=candidates, resamples=100, sasrec=False, **settings)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("users")
    write_preferences(folder / "preferences")
    models = {
        "sft": write_model(folder / "sft", seed=1),
        "dynamicpo": write_model(folder / "dynamicpo", seed=2),
    }
    preferences = folder / "preferences"
    evaluate(preferences, models, folder / "both", config("listed,catalogue"))
    evaluate(preferences, models, folder / "other-seed", config("catalogue", seed=7))
    evaluate(preferences, models, folder / "listed", config("listed"))
    titles = {"sft": write_title_model(folder / "titles", seed=3)}
    evaluate(preferences, titles, folder / "by-title", config("catalogue"))
    return folder


def top_of(folder: Path) -> TopItems:
    top = read_top_items(folder)
    assert top is not None
    return top


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_of_users_sees_the_models_first_items(name: str, root: Path) -> None:
    top = top_of(root / "both" / name)
    rows = pq.read_table(root / "both" / "rows.parquet").to_pandas().set_index("example_id")
    users = rows.loc[top.example_ids, "user_id"]
    assert len(users) == min(10, rows["user_id"].nunique()) and users.is_unique
    ranks = pq.read_table(root / "both" / name / "catalogue" / "ranks.parquet").to_pandas()
    ranks = ranks.set_index("example_id")
    for example_id, items in zip(top.example_ids, top.items, strict=True):
        row = rows.loc[example_id]
        assert len(items) == len({*items}) == 5
        assert not {*items} & {*row["history"]}
        place = ranks.loc[example_id]
        is_first = place["better"] < 5 - place["tied"]
        assert (row["target"] in items) or not is_first
        # Of equals the ranking takes one at random.
        if name in ("sft", "dynamicpo"):
            assert items[0] == place["best"]
        # The user's last row.
        of_user = rows[rows["user_id"] == row["user_id"]]
        assert of_user.index[-1] == example_id
    assert top == top_of(root / "other-seed" / name)


def test_titles_of_several_tokens_are_all_scored(root: Path) -> None:
    """Ranking leaves out what can't reach the target; the first items may lie behind it."""
    top = top_of(root / "by-title" / "sft")
    assert all(len(items) == 5 for items in top.items)
    best = pq.read_table(root / "by-title" / "sft" / "ranks.parquet").to_pandas()
    best = best.set_index("example_id")["best"]
    assert [items[0] for items in top.items] == best.loc[top.example_ids].tolist()


def test_items_without_a_score_are_not_recommended() -> None:
    scores = np.array([0.5, np.nan, 2.0, -np.inf, 2.0, 1.0, 9.0])
    assert _best_items(scores, np.array([0, 1, 2, 3, 4, 5])) == [2, 4, 5, 0]


def test_the_page_of_a_comparison_shows_them(root: Path, tmp_path: Path) -> None:
    compare_evaluations([root / "both"], tmp_path / "comparison")
    page = (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
    top = top_of(root / "both" / "sft")
    assert f"<h2>{len(top.items)} users to look at</h2>" in page
    assert page.count("<h2>User ") == len(top.items)
    assert page.index("Every model") < page.index("to look at") < page.index("Ranking the right")
    names = read_items(root / "both").set_index("item_id")["title"]
    text = page.replace("\u00a0", " ").replace("✓ ", "")
    assert f"1 {names[top.items[0][0]]} · 2 " in text
    compare_evaluations([root / "listed"], tmp_path / "listed")
    assert "to look at" not in (tmp_path / "listed" / "report.html").read_text(encoding="utf-8")


def test_hits_are_marked_and_titles_escaped() -> None:
    example = UserExample(
        history=["oldest", "b", "c", "d", "e", HOSTILE],
        target="hit",
        models={
            "right": ShownItems(["no", "hit", "other"], 2),
            "wrong": ShownItems([HOSTILE, "no", "other"], None),
        },
    )
    metrics: dict[str, dict[str, float | None]] = {"right": {"test_hit_ratio_at_1": 0.5}}
    html = comparison_page(EvaluationReport(metrics=metrics, users=[example]))
    page = html.replace("\u00a0", " ")
    assert "One user to look at" in page and "its first 3" in page
    assert "1 no · 2 ✓ hit · 3 other" in page
    assert re.search(r"<strong>right</strong> <span class=\"detail\">hit at 2</span>", page)
    assert "<strong>wrong</strong>" not in page
    assert "<script>alert" not in page and "1 &lt;script&gt;" in page
    assert "Last: b · c · d · e · &lt;script&gt;" in page and "oldest" not in page
    assert "Took next: hit." in page


def test_recommendations_of_other_rows_are_refused(root: Path) -> None:
    source = read_input(root / "both", "evaluate")
    saved = {name: read_saved_result(root / "both" / name, source) for name in MODELS}
    good = saved["sft"].top_items
    assert good is not None and len(user_examples(saved, root / "both")) == len(good.items)
    for broken in (
        TopItems([*good.example_ids[:-1], "nobody:1"], good.items),
        TopItems(good.example_ids, [["no such item"], *good.items[1:]]),
    ):
        changed = {**saved, "sft": saved["sft"]._replace(top_items=broken)}
        with pytest.raises(DataError, match="first items of one evaluation"):
            user_examples(changed, root / "both")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    assert read_top_items(tmp_path) is None
    pq.write_table(pa.table({"example_id": ["a:1"]}), tmp_path / "top_items.parquet")
    with pytest.raises(DataError, match=r"top_items\.parquet"):
        read_top_items(tmp_path)
