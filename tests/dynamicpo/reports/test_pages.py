"""Pages and tables: the result comes first, texts are escaped, nothing comes from outside."""

import json
import math
import re
from typing import Any

import pytest

from dynamicpo.reports.pages.comparisons import differences_table, is_clear_difference
from dynamicpo.reports.pages.drift import DriftColumn, DriftReport, drift_page
from dynamicpo.reports.pages.evaluation import (
    EvaluationReport,
    comparison_page,
    evaluation_page,
)
from dynamicpo.reports.pages.headline import evaluation_headline
from dynamicpo.reports.pages.metric_names import metric_label
from dynamicpo.reports.pages.metric_tables import metrics_table
from dynamicpo.reports.pages.tables import ReportTable, TableCell, markdown_table, text_table
from dynamicpo.reports.pages.training import training_page

HOSTILE = "<script>alert(1)</script>"
METRICS = {
    "sft": {
        "test_hit_ratio_at_1": 0.286,
        "test_hit_ratio_at_1_low": 0.27,
        "test_hit_ratio_at_1_high": 0.302,
    },
    "dynamicpo": {
        "test_hit_ratio_at_1": 0.405,
        "test_hit_ratio_at_1_low": 0.39,
        "test_hit_ratio_at_1_high": 0.42,
        "test_ndcg_at_1": 0.405,
        "test_gini": 0.81,
        "test_rows": 9000.0,
    },
}
RANKS = {"sft": [3, 4, 3], "dynamicpo": [5, 3, 2]}
CLEAR = {
    "a": "dynamicpo",
    "b": "sft",
    "metric": "test_hit_ratio_at_1",
    "difference": 0.119,
    "low": 0.1,
    "high": 0.138,
}
UNCLEAR = {
    **CLEAR,
    "b": "dmpo",
    "difference": 0.004,
    "low": -0.01,
    "high": 0.02,
    "p": 0.31,
    "p_holm": 0.62,
}
EXAMPLE = {
    "a": "dynamicpo",
    "b": "sft",
    "outcome": "won",
    "history": ["Fargo (1996)"],
    "target": "Alien (1979)",
}


def log(steps: int = 30, **more: float) -> list[dict[str, Any]]:
    return [
        {"step": s + 1, "loss": 2.0 - s / 29, "learning_rate": 1e-3, **more} for s in range(steps)
    ]


def preference_log() -> list[dict[str, Any]]:
    keys = (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "boundary_fraction",
    )
    keys += ("violation_share", "boundary_beta", "grad_norm")
    steps = log(**dict.fromkeys(keys, 0.25))
    return [{**step, "boundary_gradient": 0.8 if step["step"] <= 10 else 0.2} for step in steps]


def report(**changes: Any) -> EvaluationReport:
    content = {
        "metrics": METRICS,
        "ranks": RANKS,
        "comparisons": [CLEAR, UNCLEAR],
        "training": {"dynamicpo": preference_log(), "sft": log()},
        "examples": [EXAMPLE],
        "differences": {"preference_loss": {"sft": None, "dynamicpo": "dmpo"}},
        "runs": {"commit": {"monday": "0123", "friday": "4567"}},
        "details": {"protocol": {"split": "test", "exclude": "window"}, "seed": 0},
        "warnings": ["the lists leak"],
    }
    return EvaluationReport(**{**content, **changes})


def charts_of(html: str) -> list[str]:
    return re.findall(r'<svg [^>]*aria-label="([^"]*)"', html)


def all_pages(name: str = "run") -> list[str]:
    metrics = {name: METRICS["sft"], f"{name} 2": METRICS["dynamicpo"]}
    example = {
        **EXAMPLE,
        "a": name,
        "history": [name] * 3,
        "target": name,
        "top_a": name,
        "top_b": name,
    }
    comparison = report(
        title=name,
        metrics=metrics,
        ranks={name: [1, 2]},
        comparisons=[{**CLEAR, "a": name}],
        training={name: log()},
        examples=[example],
        differences={name: {name: name}},
        details={name: {name: name}},
        warnings=[name],
    )
    evaluation = evaluation_page(
        metrics, {name: [1, 2]}, [{**CLEAR, "b": name}], {name: name}, [name]
    )
    return [
        training_page(log(), name, {name: [name]}, [name]),
        evaluation,
        comparison_page(comparison),
    ]


@pytest.mark.parametrize("html", all_pages())
def test_pages_are_whole_and_hold_nothing_from_outside(html: str) -> None:
    assert html.startswith("<!doctype html>\n")
    assert html.endswith("</html>\n")
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#)", html)
    assert not re.search(r"url\((?!#)|@import|<script|<link|<iframe", html)
    assert len(re.findall(r"<h1>", html)) == 1
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("html", all_pages(HOSTILE))
def test_hostile_names_and_titles_are_text(html: str) -> None:
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_the_same_input_gives_the_same_bytes() -> None:
    assert all_pages() == all_pages()


def test_training_page_says_what_happened_first() -> None:
    html = training_page(preference_log(), "Preference training", {})
    assert html.index(
        "Over 30 steps the loss fell from 1.966 to 1.034; at the end the chosen item is"
    ) < html.index("<table")
    assert html.index("<table") < html.index("<svg") < len(html)
    assert "ended at 25 % of its size over the first steps" in html


def test_training_page_draws_all_measures_and_explains_each() -> None:
    html = training_page(preference_log(), "Preference training", {})
    assert charts_of(html) == [
        "Loss",
        "Boundary gradient, against the first steps",
        "Boundary gradient",
        "Chosen item ahead of every rejected one",
        "Reward margin",
        "Rewards",
        "Boundary items",
        "Rows with a violation",
        "Beta of boundary items",
        "Learning rate",
        "Gradient norm",
    ]
    assert html.count("<figcaption>") == 11


def test_training_page_of_fine_tuning_has_loss_and_learning_rate_alone() -> None:
    assert charts_of(training_page(log(), "SFT", {})) == ["Loss", "Learning rate"]


@pytest.mark.parametrize("steps", [[], [{"step": 1}], [{"step": 1, "loss": None}]])
def test_training_page_without_a_step_says_so(steps: list[dict[str, Any]]) -> None:
    html = training_page(steps, "SFT", {"seed": 0})
    assert "<h1>No training step was recorded.</h1>" in html
    assert "<svg" not in html


def test_training_page_of_a_run_that_diverged_says_how_much_is_missing() -> None:
    steps = [*log(3), {"step": 4, "loss": math.nan}, {"step": 5, "loss": math.inf}]
    html = training_page(steps, "SFT", {})
    assert "Over 5 steps the loss fell from 2.000 to 1.931." in html
    assert "The loss of the last step is not a finite number: training diverged." in html
    assert "2 values are NaN or infinite and not drawn." in html


def test_training_page_of_one_step_claims_no_course() -> None:
    assert "<h1>Over 1 step the loss was 2.000.</h1>" in training_page(log(1), "SFT", {})


def test_facts_are_flat_and_folded() -> None:
    facts = {"config": {"beta": 1.0, "rate": 2e-5, "dynamic": True, "ks": [1, 3]}, "none": None}
    html = training_page(log(), "SFT", facts)
    details = html[html.index("<details>") :]
    pairs = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", details))
    assert pairs == {
        "config.beta": "1",
        "config.rate": "2e−5",
        "config.dynamic": "yes",
        "config.ks": "[1, 3]",
        "none": "–",
    }


def test_headline_says_what_to_ship_by_how_much_and_how_sure() -> None:
    assert evaluation_headline(METRICS, [CLEAR, UNCLEAR]) == [
        "Ship dynamicpo: HitRatio@1 .405 [.390, .420] on the test split; "
        "+.119 [.100, .138] above sft, the model in use.",
        "It can't be told apart from dmpo (+.004).",
    ]


def test_headline_counts_a_comparison_that_names_the_best_second() -> None:
    turned = {
        **CLEAR,
        "a": "sft",
        "b": "dynamicpo",
        "difference": -0.119,
        "low": -0.138,
        "high": -0.1,
        "p_holm": 0.0004,
    }
    (sentence,) = evaluation_headline(METRICS, [turned])
    assert sentence.endswith("; +.119 [.100, .138], p < .001 above sft, the model in use.")


def hit_ratios(**values: float) -> dict[str, dict[str, float]]:
    return {name: {"test_hit_ratio_at_1": value} for name, value in values.items()}


def comparison(a: str, b: str, difference: float, low: float, high: float) -> dict[str, Any]:
    bounds = {"difference": difference, "low": low, "high": high, "p_holm": 0.01}
    return {**CLEAR, "a": a, "b": b, **bounds}


def test_headline_compares_with_the_champion_and_the_best_simple_baseline() -> None:
    metrics = hit_ratios(
        random=0.05, popularity=0.2, cooccurrence=0.3, sft=0.31, champion=0.32, new=0.4
    )
    comparisons = [
        comparison("new", "sft", 0.09, 0.05, 0.12),
        comparison("new", "champion", 0.08, 0.04, 0.11),
        comparison("new", "cooccurrence", 0.1, 0.06, 0.13),
        comparison("new", "popularity", 0.2, 0.16, 0.23),
    ]
    assert evaluation_headline(metrics, comparisons) == [
        "Ship new: HitRatio@1 .400 on the test split; "
        "+.080 [.040, .110], p = .010 above champion, the model in use; "
        "+.100 [.060, .130], p = .010 above cooccurrence, the best simple baseline.",
        "It is clearly better than sft (+.090) and popularity (+.200).",
    ]


def test_headline_of_a_baseline_that_ranks_best_says_so() -> None:
    metrics = hit_ratios(cooccurrence=0.43, sasrec=0.46, sft=0.28, dmpo=0.38)
    comparisons = [
        comparison("sft", "sasrec", -0.18, -0.2, -0.15),
        comparison("dmpo", "sasrec", -0.08, -0.1, -0.05),
    ]
    assert evaluation_headline(metrics, comparisons) == [
        "Ship sasrec, a baseline (no trained model ranks better): HitRatio@1 .460 on the test "
        "split; +.080 [.050, .100], p = .010 above dmpo, the best of the trained models.",
        "It is clearly better than sft (+.180).",
    ]


def test_headline_of_a_gain_that_may_be_noise_ships_nothing() -> None:
    metrics = hit_ratios(sft=0.28, dmpo=0.29)
    (sentence,) = evaluation_headline(metrics, [comparison("dmpo", "sft", 0.01, -0.02, 0.04)])
    assert sentence == (
        "dmpo ranks best, but can't be told apart from sft: HitRatio@1 .290 on the test split; "
        "+.010 [−.020, .040], p = .010 from sft, the model in use."
    )


def test_headline_keeps_the_model_in_use_where_none_is_better() -> None:
    metrics = hit_ratios(sft=0.3, dmpo=0.2)
    sentences = evaluation_headline(metrics, [comparison("dmpo", "sft", -0.1, -0.12, -0.08)])
    assert sentences == [
        "Keep sft, the model in use (none ranks better): HitRatio@1 .300 on the test split.",
        "It is clearly better than dmpo (+.100).",
    ]


def with_catalogue(**values: float) -> dict[str, dict[str, float]]:
    metrics = hit_ratios(sasrec=0.29, sft=0.29, dynamicpo=0.3)
    for name, value in values.items():
        bounds = {"_low": value - 0.005, "_high": value + 0.005}
        for bound, difference in {"": value, **bounds}.items():
            metrics[name][f"test_catalogue_ndcg_at_10{bound}"] = difference
    return metrics


def test_headline_says_where_the_order_over_the_catalogue_differs() -> None:
    metrics = with_catalogue(sasrec=0.087, sft=0.084, dynamicpo=0.083)
    *_, sentence = evaluation_headline(metrics)
    assert sentence.startswith(
        "Over the whole catalogue the order differs: sasrec ranks best, NDCG@10 .087 [.082, .092]; "
        "dynamicpo reaches NDCG@10 .083 [.078, .088]. Lists measure what the models are for"
    )
    same = with_catalogue(sasrec=0.08, sft=0.08, dynamicpo=0.083)
    assert evaluation_headline(same)[-1] == (
        "Over the whole catalogue it ranks best, too: NDCG@10 .083 [.078, .088]."
    )
    # Without rankings of every item there is nothing to say of them.
    assert "catalogue" not in " ".join(evaluation_headline(hit_ratios(a=0.1, b=0.2)))


def test_comparison_page_has_the_differences_over_the_catalogue() -> None:
    over_catalogue = [{**CLEAR, "metric": "test_catalogue_ndcg_at_10"}]
    html = comparison_page(EvaluationReport(metrics=METRICS, beside_comparisons=over_catalogue))
    heading = "<h2>Paired differences over the whole catalogue</h2>"
    assert heading in html and "catalogue NDCG@10" in html[html.index(heading) :]
    assert heading not in comparison_page(EvaluationReport(metrics=METRICS))


def test_headline_without_usable_scores() -> None:
    assert evaluation_headline({}) == ["Nothing was evaluated."]
    assert evaluation_headline({"a": {"test_mrr": math.nan}}) == ["No model has a usable score."]
    assert evaluation_headline({"a": {"mrr": 0.5}, "b": {"mrr": math.nan}}) == [
        "a reaches MRR .500."
    ]


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "clear"),
    [
        (0.1, 0.2, None, True),
        (-0.2, -0.1, 0.01, True),
        (-0.1, 0.2, 0.01, False),
        (0.1, 0.2, 0.06, False),
    ],
)
def test_a_difference_is_clear_by_interval_and_corrected_p(
    low: float, high: float, p_holm: float | None, clear: bool
) -> None:
    assert is_clear_difference({"low": low, "high": high, "p_holm": p_holm}) is clear


def test_evaluation_page_shows_protocol_beside_the_numbers() -> None:
    html = evaluation_page(METRICS, RANKS, [], {"protocol": {"split": "test", "exclude": "window"}})
    assert "Protocol: split test, exclude window." in html[: html.index("<table")]
    assert charts_of(html) == [
        "HitRatio@1 (test)",
        "The right item is among the first k",
        "sft",
        "dynamicpo",
    ]


def test_comparison_page_has_all_parts_in_order() -> None:
    html = comparison_page(report())
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "Every model",
        "Ranking the right item",
        "Paired differences",
        "What differs between the runs",
        "What differs between the models",
        "Preference training: curves",
        "Fine-tuning: curves",
        "Where the right item stands",
        "Rows won by a",
        "Other measures",
    ]
    assert '<p class="warning"><strong>Warning:</strong> the lists leak</p>' in html
    assert html.index('class="warning"') < html.index("<h2>")
    assert "Fargo (1996)" in html and "Alien (1979)" in html
    drawn = charts_of(html)
    assert drawn.index("Boundary gradient, against the first steps") < drawn.index(
        "Beta of boundary items"
    )
    assert (
        drawn.count("Loss") == 2
    )  # losses of fine-tuning and of preference training are not laid over each other


def test_comparison_page_of_nothing_says_so() -> None:
    html = comparison_page(EvaluationReport(metrics={}))
    assert "<h1>Nothing was evaluated.</h1>" in html
    assert "<h2>" not in html


def test_long_titles_are_cut_short() -> None:
    html = comparison_page(report(examples=[{**EXAMPLE, "target": "x" * 5000}]))
    assert "x" * 40 in html
    assert "x" * 100 not in html


def test_metrics_table_marks_the_best_and_leaves_out_bounds() -> None:
    table = metrics_table(METRICS, ["hit_ratio_at_1", "test_gini", "rows", "unknown"])
    assert table.columns == ["", "HitRatio@1", "Gini", "Rows"]
    assert table.rows[0] == [
        TableCell("sft"),
        TableCell(".286", "[.270, .302]"),
        TableCell("–"),
        TableCell("–"),
    ]
    assert table.rows[1][1:] == [
        TableCell(".405", "[.390, .420]", True),
        TableCell(".810"),
        TableCell("9,000"),
    ]


def test_metrics_of_two_splits_are_told_apart() -> None:
    table = metrics_table({"a": {"test_mrr": 0.5, "validation_mrr": 0.6}}, ["mrr"])
    assert table.columns == ["", "MRR (test)", "MRR (validation)"]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("test_hit_ratio_at_10", "HitRatio@10"),
        ("validation_ndcg_at_5", "NDCG@5"),
        ("mrr", "MRR"),
        ("test_valid_ratio", "ValidRatio"),
        ("generated_hit_ratio_at_1", "generated HitRatio@1"),
        ("test_catalogue_coverage", "Catalogue coverage"),
    ],
)
def test_metric_labels(name: str, label: str) -> None:
    assert metric_label(name) == label


def test_differences_table_reads_each_line() -> None:
    turned = {**CLEAR, "difference": -0.1, "low": -0.2, "high": -0.05}
    one_user = {**CLEAR, "low": None, "high": None}
    table = differences_table(
        [{**CLEAR, "p": 0.0001, "won": 2310, "lost": 1122}, UNCLEAR, turned, one_user]
    )
    assert [row[-1].text for row in table.rows] == [
        "a is better",
        "no clear difference",
        "b is better",
        "interval not available",
    ]
    assert table.rows[0][3:8] == [
        TableCell("+.119", "[.100, .138]", True),
        TableCell("< .001"),
        TableCell("–"),
        TableCell("2,310"),
        TableCell("1,122"),
    ]


def test_text_table_is_aligned_and_plain() -> None:
    table = ReportTable(
        ["", "a − b"],
        [
            [TableCell("dynamicpo"), TableCell("−.012", "[−.020, .001]")],
            [TableCell("映画"), TableCell(".1")],
        ],
    )
    assert text_table(table).splitlines() == [
        "                         a - b",
        "---------  -------------------",
        "dynamicpo  -.012 [-.020, .001]",
        "映画                        .1",
    ]


def test_markdown_table_keeps_markup_in_names_as_text() -> None:
    table = ReportTable(
        ["", "MRR"], [[TableCell("a|b <b>*x*</b>\n"), TableCell(".5", "[.4, .6]", True)]]
    )
    assert markdown_table(table) == (
        "|  | MRR |\n| --- | ---: |\n| a\\|b &lt;b&gt;\\*x\\*&lt;/b&gt; | **.5** \\[.4, .6\\] |\n"
    )


def test_metrics_from_json_are_taken_as_they_are() -> None:
    metrics = json.loads(
        '{"a": {"test_hit_ratio_at_1": NaN, "test_hit_ratio_at_5": null, "test_mrr": 1}}'
    )
    assert metrics_table(metrics, ["hit_ratio_at_1", "hit_ratio_at_5", "mrr"]).rows[0] == [
        TableCell("a"),
        TableCell("–"),
        TableCell("–"),
        TableCell("1.000", "", True),
    ]
    assert "No model has a usable score." in evaluation_page(metrics, {}, [], {})


def test_the_drift_page_puts_the_verdict_on_top_of_evidently_and_escapes_it() -> None:
    method = "Jensen-Shannon distance"
    window = "training window"
    column = DriftColumn(HOSTILE, 0.3346, "drifted", 0.0124, window, method, "a column")
    rows = ["1,200 rows of the reference", "30 rows of the current window"]
    verdict = "Drifted: 1 of 1 columns have drifted."
    report = DriftReport(verdict, HOSTILE, rows, [column], {window: (0.5, 0.25, None)}, [])
    page = drift_page(report, "<html><head></head><body class='e'><div>\\1</div></body></html>")
    assert page.startswith("<html><head></head><body class='e'>\n<style>")
    assert page.endswith("</div>\n<div>\\1</div></body></html>")
    assert "<h1>Drifted: 1 of 1 columns have drifted.</h1>" in page
    assert "1,200 rows of the reference; 30 rows of the current window." in page
    assert '<td class="number">0.335</td><td><strong>drifted</strong></td>' in page
    assert "0.012" in page and "HitRatio@1" in page
    assert "<script" not in page and page.count("&lt;script&gt;") == 2
