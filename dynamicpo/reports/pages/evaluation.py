"""How good the models are: one evaluation, or several runs compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamicpo.reports.charts.numbers import interval, number, short_names, shorten
from dynamicpo.reports.charts.plots import (
    Estimate,
    bars_with_intervals,
    rank_curves,
    rank_groups,
    rank_histogram,
)
from dynamicpo.reports.pages import tables
from dynamicpo.reports.pages.layout import Figure, Section, fact, page
from dynamicpo.reports.pages.tables import Cell, Metrics, Table
from dynamicpo.reports.pages.training import overlay
from dynamicpo.reports.training_log import Steps

_TITLE_ROOM, _HISTORY = 90, 4
_DIFFERENCE = "Right of 0 the first is better. An interval that reaches across 0 may be noise."


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a comparison page can show; what is empty is left out.

    Attributes:
        title: What is compared.
        metrics: Flat metrics of each model, such as `test_hit_ratio_at_1` with `_low` and `_high`.
        ranks: For each model the number of rows whose right item stands at rank 1, 2, ... Ties may be shared.
        comparisons: Paired differences: `a`, `b`, `metric`, `difference` (a less b), `low`, `high`, and where known
            `p`, `p_holm`, `won`, `lost`.
        training: The training log of each run, under the model's name.
        examples: Single rows: `a`, `b`, `outcome` ("won" or "lost", as seen from a), and where known `history` (titles,
            oldest first), `target` (title), `rank_a`, `rank_b`, `top_a`, `top_b` (titles), `example_id`.
        differences: Settings and inputs in which the models differ: for each its value in each of them.
        runs: Parameters, data, images or commits in which the runs differ: for each its value in each of them.
        facts: Configuration, protocol, seeds, fingerprints; may be nested. A mapping under `protocol` (split, score,
            exclude, strategy, number of candidates) is also shown in the open, beside the numbers.
        warnings: Red lines.
    """

    title: str = "Comparison"
    metrics: Metrics
    ranks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    comparisons: Sequence[Mapping[str, Any]] = ()
    training: Mapping[str, Steps] = field(default_factory=dict)
    examples: Sequence[Mapping[str, Any]] = ()
    differences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def evaluation_page(
    metrics: Metrics,
    ranks: Mapping[str, Sequence[float]],
    comparisons: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> str:
    """The page of one evaluation; the arguments are fields of `Report`."""
    return comparison_page(
        Report(
            title="Evaluation",
            metrics=metrics,
            ranks=ranks,
            comparisons=comparisons,
            facts=facts,
            warnings=warnings,
        )
    )


def comparison_page(report: Report) -> str:
    """The page of several models or runs: an evaluation with training curves, single rows and what differs."""
    sections = [
        *_accuracy(report),
        *_paired(report),
        *_settings("What differs between the runs", report.runs),
        *_settings("What differs between the models", report.differences),
        *overlay({name: report.training.get(name, ()) for name in _names(report)}),
        *_ranks(report),
        *_examples(report),
        *_others(report),
    ]
    return page(
        report.title,
        headline(report.metrics, report.comparisons),
        sections,
        report.facts,
        report.warnings,
    )


def headline(metrics: Metrics, comparisons: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Who ranks best, by how much, and whether that can be told from noise."""
    names = [name for name in tables.metric_names(metrics) if tables.is_accuracy(name)]
    if not names:
        return ["Nothing was evaluated."]
    key = next(
        (name for name in names if tables.plain_name(name) == tables.HEADLINE_METRICS[0]), names[0]
    )
    values = {model: tables.value_of(flat, key) for model, flat in metrics.items()}
    values = {model: value for model, value in values.items() if not math.isnan(value)}
    if not values:
        return ["No model has a usable score."]
    best = max(values, key=lambda model: values[model])
    bounds = interval(
        *(tables.value_of(metrics[best], f"{key}_{side}") for side in ("low", "high"))
    )
    what = f"{tables.metric_label(key)} {number(values[best])} {bounds}".strip()
    where = f" on the {tables.split_of(key)} split" if tables.split_of(key) else ""
    text = (
        f"{best} ranks best: {what}{where}."
        if len(values) > 1
        else f"{best} reaches {what}{where}."
    )
    return [text, *_against_others(best, key, comparisons)]


def _against_others(best: str, key: str, comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    better: list[str] = []
    unclear: list[str] = []
    unknown: list[str] = []
    for entry in comparisons:
        if entry["metric"] in (key, tables.plain_name(key)) and best in (entry["a"], entry["b"]):
            other = entry["b"] if entry["a"] == best else entry["a"]
            gain = abs(float(entry["difference"]))
            known = not math.isnan(tables.value_of(entry, "low"))
            group = (better if tables.is_clear(entry) else unclear) if known else unknown
            group.append(f"{other} ({tables.signed(gain)})")
    sentences = [f"It is clearly better than {_listed(better)}."] if better else []
    sentences += [f"It can't be told apart from {_listed(unclear)}."] if unclear else []
    return sentences + (
        [f"Intervals against {_listed(unknown)} are not available."] if unknown else []
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _accuracy(report: Report) -> list[Section]:
    names = [name for name in tables.metric_names(report.metrics) if tables.is_accuracy(name)]
    names = [
        name for name in names if tables.plain_name(name) != "ndcg_at_1"
    ]  # the same number as HitRatio@1
    if not names:
        return []
    drawn = [name for name in names if tables.plain_name(name) in tables.HEADLINE_METRICS] or names[
        :3
    ]
    figures = [Figure(_bars(report.metrics, name), _meaning(name)) for name in drawn]
    text = "Means over rows; 95 % intervals in brackets. The best of a column is set in bold."
    protocol = report.facts.get("protocol")
    if isinstance(protocol, Mapping):
        text += (
            f" Protocol: {', '.join(f'{name} {fact(value)}' for name, value in protocol.items())}."
        )
    return [
        Section(
            "Ranking the right item", text, tables.metrics_table(report.metrics, names), figures
        )
    ]


def _bars(metrics: Metrics, name: str) -> str:
    values = {
        model: _estimate(flat, name, f"{name}_low", f"{name}_high")
        for model, flat in metrics.items()
    }
    return bars_with_intervals(values, tables.metric_label(name, with_split=True))


def _meaning(name: str) -> str:
    kind, _, k = tables.plain_name(name).partition("_at_")
    if kind == "hit_ratio":
        return "Share of rows in which the right item " + (
            "comes first." if k == "1" else f"is among the first {k}."
        )
    if kind == "ndcg":
        return f"As HitRatio@{k}, but the first place counts 1, the second .63, the third .5, and so on."
    return "Mean of 1 divided by the right item's rank."


def _paired(report: Report) -> list[Section]:
    if not report.comparisons:
        return []
    text = (
        "Two models on the very same rows. Bold: the interval excludes 0, and p after Holm's correction for the number "
        "of comparisons is under .05. Rows won: a ranks the right item better than b does."
    )
    keys = [str(entry["metric"]) for entry in report.comparisons]
    drawn = [
        key for key in dict.fromkeys(keys) if tables.plain_name(key) == tables.HEADLINE_METRICS[0]
    ]
    figures = [Figure(_difference_bars(report.comparisons, key), _DIFFERENCE) for key in drawn]
    return [
        Section("Paired differences", text, tables.differences_table(report.comparisons), figures)
    ]


def _difference_bars(comparisons: Sequence[Mapping[str, Any]], metric: str) -> str:
    entries = [entry for entry in comparisons if entry["metric"] == metric]
    models = list(dict.fromkeys(str(entry[side]) for entry in entries for side in ("a", "b")))
    short = dict(zip(models, short_names(models, 18), strict=True))
    values = {
        f"{short[str(entry['a'])]} − {short[str(entry['b'])]}": _estimate(
            entry, "difference", "low", "high"
        )
        for entry in entries
    }
    return bars_with_intervals(
        values, f"Difference in {tables.metric_label(metric)}", coloured=False
    )


def _estimate(flat: Mapping[str, Any], *keys: str) -> Estimate:
    return Estimate(*(tables.value_of(flat, key) for key in keys))


def _settings(heading: str, differences: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    return [Section(heading, "", settings_table(differences))] if differences else []


def settings_table(differences: Mapping[str, Mapping[str, Any]]) -> Table:
    """What differs: a row for each setting, a column for each run or model."""
    names = list(dict.fromkeys(name for values in differences.values() for name in values))
    rows = [
        [
            Cell(setting),
            *(Cell(_title(fact(values[name]) if name in values else None)) for name in names),
        ]
        for setting, values in differences.items()
    ]
    return Table(["", *names], rows, range(len(names) + 1))


def _ranks(report: Report) -> list[Section]:
    ranks = {name: [*report.ranks.get(name, ())] for name in _names(report)}
    grouped = [rank_groups(counts)[1] for counts in ranks.values()]
    tallest = max((max(shares) / sum(shares) for shares in grouped if sum(shares)), default=0)
    if not tallest:
        return []
    first = rank_curves(ranks, "The right item is among the first k")
    figures = [
        Figure(
            first,
            "The higher a line, the better: at k = 1 it shows HitRatio@1, at k = 5 HitRatio@5.",
        )
    ]
    names = short_names([*ranks])
    for place, (name, counts) in enumerate(zip(names, ranks.values(), strict=True)):
        if sum(grouped[place]):
            figures.append(Figure(rank_histogram(counts, name, place, tallest * 1.05)))
    return [Section("Where the right item stands", "Rank 1 is the first place.", figures=figures)]


def _names(report: Report) -> list[str]:
    """All models in one order, which gives each the same colour in every chart."""
    return list(dict.fromkeys([*report.metrics, *report.training, *report.ranks]))


def _examples(report: Report) -> list[Section]:
    sections = []
    for outcome, better, worse in (("won", "a", "b"), ("lost", "b", "a")):
        chosen = [entry for entry in report.examples if entry.get("outcome") == outcome]
        if chosen:
            text = (
                f"Some of the rows in which {better} ranks the right item better than {worse} does."
            )
            sections.append(Section(f"Rows {outcome} by a", text, _examples_table(chosen)))
    return sections


def _examples_table(examples: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for entry in examples:
        history = [_title(title) for title in entry.get("history", ())]
        cells = [Cell(" · ".join(history[-_HISTORY:]) or "–"), Cell(_title(entry.get("target")))]
        for side in ("a", "b"):
            detail = f"rank {_rank(entry.get(f'rank_{side}'))}, first: {_title(entry.get(f'top_{side}'))}"
            cells.append(Cell(str(entry[side]), detail))
        rows.append(cells)
    return Table([f"history (the last {_HISTORY})", "right item", "a", "b"], rows, range(4))


def _title(text: Any) -> str:
    return "–" if text is None else shorten(str(text), _TITLE_ROOM)


def _rank(value: Any) -> str:
    return "–" if value is None else f"{float(value):g}"


def _others(report: Report) -> list[Section]:
    names = [name for name in tables.metric_names(report.metrics) if not tables.is_accuracy(name)]
    if not names:
        return []
    table = tables.metrics_table(report.metrics, names)
    return [Section("Other measures", "", table)]
