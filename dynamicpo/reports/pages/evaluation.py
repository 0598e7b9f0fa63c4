"""The page of one evaluation, and that of several runs compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dynamicpo.core.json_values import JsonValue
from dynamicpo.reports.charts.bars import Estimate, bars_with_intervals
from dynamicpo.reports.charts.ranks import rank_curves, rank_groups, rank_histogram
from dynamicpo.reports.labels import short_names
from dynamicpo.reports.pages.comparisons import PairedComparison, differences_table, interval_of
from dynamicpo.reports.pages.example_rows import ExampleRow, example_sections, title_text
from dynamicpo.reports.pages.headline import evaluation_headline
from dynamicpo.reports.pages.layout import (
    CaptionedChart,
    Section,
    page,
    protocol_text,
    setting_text,
    weights_text,
)
from dynamicpo.reports.pages.metric_names import (
    HEADLINE_METRICS,
    ModelMetrics,
    accuracy_names,
    is_accuracy,
    metric_label,
    metric_names,
    metric_value,
    value_or_nan,
    without_split,
)
from dynamicpo.reports.pages.metric_tables import metrics_table
from dynamicpo.reports.pages.tables import ReportTable, TableCell
from dynamicpo.reports.pages.training import overlaid_sections
from dynamicpo.reports.pages.user_examples import UserExample, user_sections
from dynamicpo.reports.training_log import TrainingLog

# For each setting its value in each model or run.
SettingDifferences = Mapping[str, Mapping[str, JsonValue]]

_DIFFERENCES_TEXT = (
    "Two models on the very same rows. Bold: the interval excludes 0, and p after Holm's "
    "correction for the number of comparisons is under .05. Rows won: a ranks the right item "
    "better than b does."
)
# By what the metric's name begins with.
_BESIDE_HEADINGS = {
    "catalogue": "Paired differences over the whole catalogue",
    "proposed": "Paired differences among what a candidate generator proposes",
}
_DIFFERENCE_CAPTION = (
    "Right of 0 the first is better. An interval that reaches across 0 may be noise."
)


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The content of a comparison page; what is empty is left out.

    Attributes:
        title: Subject of the page.
        metrics: Flat metrics of each model, such as `test_hit_ratio_at_1` with `_low` and `_high`.
        ranks: For each model the number of rows whose right item stands at rank 1, 2, ... Ties may
            be shared.
        comparisons: Paired differences.
        beside_comparisons: The same of what was ranked beside the lists: every item, or what a
            candidate generator proposes.
        training: The training log of each run, under the model's name.
        examples: Single rows.
        users: Users to look at.
        differences: Settings and inputs in which the models differ.
        runs: Parameters, data, images or commits in which the runs differ.
        details: Configuration, protocol, seeds, fingerprints; may be nested. A mapping under
            `protocol` (split, score, exclude, strategy, number of candidates) is also shown in the
            open, beside the numbers, and so are the models' `weights`.
        warnings: Shown above everything else.
    """

    title: str = "Comparison"
    metrics: ModelMetrics
    ranks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    comparisons: Sequence[PairedComparison] = ()
    beside_comparisons: Sequence[PairedComparison] = ()
    training: Mapping[str, TrainingLog] = field(default_factory=dict)
    examples: Sequence[ExampleRow] = ()
    users: Sequence[UserExample] = ()
    differences: SettingDifferences = field(default_factory=dict)
    runs: SettingDifferences = field(default_factory=dict)
    details: Mapping[str, JsonValue] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """All models in one order, which gives each the same colour in every chart."""
        names = dict.fromkeys([*self.metrics, *self.training, *self.ranks])
        return list(names)


def evaluation_page(
    metrics: ModelMetrics,
    ranks: Mapping[str, Sequence[float]],
    comparisons: Sequence[PairedComparison],
    details: Mapping[str, JsonValue],
    warnings: Sequence[str] = (),
) -> str:
    """The page of one evaluation; the arguments are fields of `EvaluationReport`."""
    report = EvaluationReport(
        title="Evaluation",
        metrics=metrics,
        ranks=ranks,
        comparisons=comparisons,
        details=details,
        warnings=warnings,
    )
    return comparison_page(report)


def comparison_page(report: EvaluationReport) -> str:
    """The page of several models or runs, with training curves, single rows and differences."""
    sections = [
        *_overview_sections(report),
        *user_sections(report.users, are_proposals=_ranks_proposals(report)),
        *_accuracy_sections(report),
        *_comparison_sections("Paired differences", report.comparisons),
        *_beside_sections(report.beside_comparisons),
        *_setting_sections("What differs between the runs", report.runs),
        *_setting_sections("What differs between the models", report.differences),
    ]
    # A model that was not trained stays as an empty log, so that each keeps its colour.
    training = {name: report.training.get(name, ()) for name in report.names}
    sections += overlaid_sections(training)
    sections += _rank_sections(report)
    sections += example_sections(report.examples)
    sections += _other_metric_sections(report.metrics)
    return page(
        report.title,
        headline=evaluation_headline(report.metrics, report.comparisons),
        sections=sections,
        details=report.details,
        warnings=report.warnings,
    )


def _overview_sections(report: EvaluationReport) -> list[Section]:
    """The one picture: every model with its interval, and the differences beside it."""
    names = accuracy_names(report.metrics)
    if not names:
        return []
    name = _drawn_metrics(names)[0]
    charts = [CaptionedChart(_metric_bars(report.metrics, name), _meaning(name))]
    metrics = (name, without_split(name))
    shown = [item for item in report.comparisons if item["metric"] in metrics]
    if shown:
        svg = _difference_bars(shown, shown[0]["metric"])
        charts.append(CaptionedChart(svg, _DIFFERENCE_CAPTION))
    return [Section("Every model", charts=charts)]


def _accuracy_sections(report: EvaluationReport) -> list[Section]:
    names = accuracy_names(report.metrics)
    # With one right item NDCG@1 is the same number as HitRatio@1.
    names = [name for name in names if without_split(name) != "ndcg_at_1"]
    if not names:
        return []
    charts = []
    # The first of them stands in the overview.
    for name in _drawn_metrics(names)[1:]:
        svg = _metric_bars(report.metrics, name)
        charts.append(CaptionedChart(svg, _meaning(name)))
    text = "Means over rows; 95 % intervals in brackets. The best of a column is set in bold."
    sentences = [text, protocol_text(report.details), weights_text(report.details)]
    section = Section(
        "Ranking the right item",
        " ".join(filter(None, sentences)),
        table=metrics_table(report.metrics, names),
        charts=charts,
    )
    return [section]


def _drawn_metrics(names: Sequence[str]) -> Sequence[str]:
    """The headline's metrics, or the first three where it has none of these."""
    drawn = [name for name in names if without_split(name) in HEADLINE_METRICS]
    return drawn or names[:3]


def _metric_bars(metrics: ModelMetrics, name: str) -> str:
    estimates = {model: _estimate(flat, name) for model, flat in metrics.items()}
    return bars_with_intervals(estimates, metric_label(name, with_split=True))


def _estimate(metrics: Mapping[str, float | None], name: str) -> Estimate:
    return Estimate(
        metric_value(metrics, name),
        metric_value(metrics, f"{name}_low"),
        metric_value(metrics, f"{name}_high"),
    )


def _meaning(name: str) -> str:
    kind, _, k = without_split(name).partition("_at_")
    if kind == "hit_ratio":
        event = "comes first" if k == "1" else f"is among the first {k}"
        return f"Share of rows in which the right item {event}."
    if kind == "ndcg":
        return (
            f"As HitRatio@{k}, but the first place counts 1, the second .63, the third .5, "
            "and so on."
        )
    return "Mean of 1 divided by the right item's rank."


def _comparison_sections(heading: str, comparisons: Sequence[PairedComparison]) -> list[Section]:
    if not comparisons:
        return []
    table = differences_table(comparisons)
    return [Section(heading, _DIFFERENCES_TEXT, table=table)]


def _ranks_proposals(report: EvaluationReport) -> bool:
    names = metric_names(report.metrics)
    return any(without_split(name).startswith("proposed_") for name in names)


def _beside_sections(comparisons: Sequence[PairedComparison]) -> list[Section]:
    if not comparisons:
        return []
    metric = without_split(comparisons[0]["metric"])
    kind, _, _ = metric.partition("_")
    return _comparison_sections(_BESIDE_HEADINGS[kind], comparisons)


def _difference_bars(comparisons: Sequence[PairedComparison], metric: str) -> str:
    shown = [comparison for comparison in comparisons if comparison["metric"] == metric]
    short = _short_model_names(shown)
    estimates = {}
    for comparison in shown:
        first = short[comparison["a"]]
        second = short[comparison["b"]]
        difference = value_or_nan(comparison["difference"])
        bounds = interval_of(comparison)
        estimates[f"{first} − {second}"] = Estimate(difference, *bounds)
    title = f"Difference in {metric_label(metric)}"
    return bars_with_intervals(estimates, title, coloured=False)


def _short_model_names(comparisons: Sequence[PairedComparison]) -> dict[str, str]:
    """A short name for each model: two of them stand in the room of one."""
    models: list[str] = []
    for comparison in comparisons:
        for model in (comparison["a"], comparison["b"]):
            if model not in models:
                models.append(model)
    names = short_names(models, max_width=18)
    return dict(zip(models, names, strict=True))


def _setting_sections(heading: str, differences: SettingDifferences) -> list[Section]:
    if not differences:
        return []
    return [Section(heading, table=settings_table(differences))]


def settings_table(differences: SettingDifferences) -> ReportTable:
    """Settings that differ: a row for each of them, a column for each run or model."""
    names = _names_of_all(differences.values())
    rows = []
    for setting, values in differences.items():
        cells = [TableCell(setting)]
        for name in names:
            text = setting_text(values.get(name))
            cells.append(TableCell(title_text(text)))
        rows.append(cells)
    heads = ["", *names]
    return ReportTable(heads, rows, text_columns=range(len(heads)))


def _names_of_all(settings: Iterable[Mapping[str, JsonValue]]) -> list[str]:
    """Runs or models in the order in which they come."""
    names: dict[str, None] = {}
    for values in settings:
        names.update(dict.fromkeys(values))
    return list(names)


def _rank_sections(report: EvaluationReport) -> list[Section]:
    ranks = {name: list(report.ranks.get(name, ())) for name in report.names}
    tallest_shares = [_tallest_share(counts) for counts in ranks.values()]
    if not any(tallest_shares):
        return []
    overview = CaptionedChart(
        rank_curves(ranks, "The right item is among the first k"),
        "The higher a line, the better: at k = 1 it shows HitRatio@1, at k = 5 HitRatio@5.",
    )
    charts = [overview]
    # One scale for all, so that the bars of different models can be compared.
    y_max = max(tallest_shares) * 1.05
    names = short_names(list(ranks))
    for index, counts in enumerate(ranks.values()):
        if tallest_shares[index]:
            svg = rank_histogram(counts, names[index], index, y_max)
            charts.append(CaptionedChart(svg))
    section = Section(
        "Where the right item stands",
        "Rank 1 is the first place.",
        charts=charts,
    )
    return [section]


def _tallest_share(counts: Sequence[float]) -> float:
    """Share of the largest rank group; 0 without rows."""
    _, grouped = rank_groups(counts)
    total = sum(grouped)
    if total == 0:
        return 0.0
    return max(grouped) / total


def _other_metric_sections(metrics: ModelMetrics) -> list[Section]:
    names = [name for name in metric_names(metrics) if not is_accuracy(name)]
    if not names:
        return []
    table = metrics_table(metrics, names)
    return [Section("Other measures", table=table)]
