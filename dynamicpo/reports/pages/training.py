"""The page of a training run, step by step, and the curves of several runs overlaid."""

import math
from collections.abc import Mapping, Sequence

from dynamicpo.core.json_values import JsonValue
from dynamicpo.reports.charts.curves import curves
from dynamicpo.reports.number_format import format_number, format_percent
from dynamicpo.reports.pages.layout import CaptionedChart, Section, page
from dynamicpo.reports.pages.tables import ReportTable, TableCell
from dynamicpo.reports.pages.training_curves import TRAINING_CURVES, TrainingCurve
from dynamicpo.reports.training_log import (
    BOUNDARY_GRADIENT,
    RELATIVE_BOUNDARY_GRADIENT,
    TrainingLog,
    logged_values,
    with_relative_gradient,
)

# Curves of more steps are drawn as means of groups.
_MAX_SINGLE_STEPS = 60
# Curves that come first where runs are compared: what the paper is about.
_FIRST_CURVES = (RELATIVE_BOUNDARY_GRADIENT, BOUNDARY_GRADIENT, "boundary_beta")


def training_page(
    log: TrainingLog,
    title: str,
    details: Mapping[str, JsonValue],
    warnings: Sequence[str] = (),
) -> str:
    """The page of one training run.

    Args:
        log: The training log, one record a step. Curves that it does not have are left out.
        title: Name of the run.
        details: Configuration, counts, fingerprints; may be nested.
        warnings: Shown above everything else.
    """
    log = with_relative_gradient(log)
    return page(
        title,
        headline=_training_headline(log),
        sections=_training_sections(log),
        details=details,
        warnings=warnings,
    )


def _training_sections(log: TrainingLog) -> list[Section]:
    shown = [curve for curve in TRAINING_CURVES if _has(log, curve.key)]
    if not shown:
        return []
    first_and_last = Section(
        "First and last",
        "Means over the first and the last tenth of the steps.",
        table=_first_and_last_table(log, shown),
    )
    all_curves = Section(
        "Curves",
        charts=_charts(log, shown),
        note=_grouping_note([log]),
    )
    return [first_and_last, all_curves]


def overlaid_sections(runs: Mapping[str, TrainingLog]) -> list[Section]:
    """Sections with the curves of several runs laid over each other.

    Fine-tuning and preference training have a section each, for their losses are not comparable.
    """
    preference: dict[str, TrainingLog] = {}
    tuning: dict[str, TrainingLog] = {}
    for name, log in runs.items():
        log = with_relative_gradient(log)
        is_preference = _has(log, "rewards/margins")
        # A run of the other kind stays as an empty series, so that each keeps its colour.
        preference[name] = log if is_preference else ()
        tuning[name] = () if is_preference else log
    text = "Loss levels of different objectives can't be compared; their course can."
    return [
        *_overlaid_section("Preference training: curves", text, preference),
        *_overlaid_section("Fine-tuning: curves", "", tuning),
    ]


def _overlaid_section(heading: str, text: str, logs: Mapping[str, TrainingLog]) -> list[Section]:
    charts = []
    for curve in sorted(TRAINING_CURVES, key=_comparison_order):
        if any(_has(log, curve.key) for log in logs.values()):
            svg = _chart(logs, curve)
            charts.append(CaptionedChart(svg, curve.caption))
    if not charts:
        return []
    section = Section(
        heading,
        text,
        charts=charts,
        note=_grouping_note(list(logs.values())),
    )
    return [section]


def _comparison_order(curve: TrainingCurve) -> int:
    if curve.key in _FIRST_CURVES:
        return _FIRST_CURVES.index(curve.key)
    return len(_FIRST_CURVES)


def _charts(log: TrainingLog, shown: Sequence[TrainingCurve]) -> list[CaptionedChart]:
    """A chart for each curve; the rewards of chosen and rejected items share one."""
    keys = [curve.key for curve in shown]
    has_both_rewards = {"rewards/chosen", "rewards/rejected"} <= set(keys)
    charts = []
    for curve in shown:
        if has_both_rewards and curve.key == "rewards/rejected":
            continue
        # On the same axes, for it is their distance that training widens.
        if has_both_rewards and curve.key == "rewards/chosen":
            chart = _rewards_chart(log, curve)
        else:
            svg = _chart({curve.title: log}, curve)
            chart = CaptionedChart(svg, curve.caption)
        charts.append(chart)
    return charts


def _rewards_chart(log: TrainingLog, curve: TrainingCurve) -> CaptionedChart:
    series = {
        "chosen": _points(log, "rewards/chosen"),
        "rejected": _points(log, "rewards/rejected"),
    }
    svg = curves(series, "Rewards", curve.unit, references={"start": 0.0})
    caption = (
        "How much likelier the chosen item, and the rejected ones on average, have become since "
        "training began: the first should end above the second."
    )
    return CaptionedChart(svg, caption)


def _chart(logs: Mapping[str, TrainingLog], curve: TrainingCurve) -> str:
    references = {}
    if curve.reference is not None:
        name, value = curve.reference
        references[name] = value
    return curves(
        series={name: _points(log, curve.key) for name, log in logs.items()},
        title=curve.title,
        y_label=curve.unit,
        y_range=curve.y_range,
        references=references,
    )


def _points(log: TrainingLog, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a measure, where it was logged."""
    xs: list[float] = []
    ys: list[float] = []
    for number, record in enumerate(log, start=1):
        value = record.get(key)
        if value is None:
            continue
        # A log without step numbers is counted.
        step = record.get("step", number)
        xs.append(number if step is None else float(step))
        ys.append(float(value))
    return xs, ys


def _has(log: TrainingLog, key: str) -> bool:
    return any(record.get(key) is not None for record in log)


def _first_and_last_means(log: TrainingLog, key: str) -> tuple[float, float]:
    """Means over the first and the last tenth of the steps, of what is finite."""
    values = list(filter(math.isfinite, logged_values(log, key)))
    if not values:
        return math.nan, math.nan
    # A share and not a fixed number: runs have from a few steps to thousands.
    tenth = len(values) // 10
    num_averaged = max(1, tenth)
    first = sum(values[:num_averaged])
    last = sum(values[-num_averaged:])
    return first / num_averaged, last / num_averaged


def _first_and_last_table(log: TrainingLog, shown: Sequence[TrainingCurve]) -> ReportTable:
    rows = []
    for curve in shown:
        name = TableCell(curve.title, detail=curve.unit)
        means = _first_and_last_means(log, curve.key)
        numbers = [TableCell(format_number(mean)) for mean in means]
        rows.append([name, *numbers])
    heads = ["", "first", "last"]
    return ReportTable(heads, rows)


def _training_headline(log: TrainingLog) -> list[str]:
    losses = logged_values(log, "loss")
    if not losses:
        return ["No training step was recorded."]
    sentences = [_loss_sentence(log)]
    # The means leave such values out, and would hide it.
    if not math.isfinite(losses[-1]):
        sentences.append("The loss of the last step is not a finite number: training diverged.")
    if _has(log, RELATIVE_BOUNDARY_GRADIENT):
        _, share = _first_and_last_means(log, RELATIVE_BOUNDARY_GRADIENT)
        sentences.append(
            "The pull on the items that are easiest to confuse with the right one ended at "
            f"{format_percent(share)} of its size over the first steps."
        )
    return sentences


def _loss_sentence(log: TrainingLog) -> str:
    steps = "1 step" if len(log) == 1 else f"{len(log):,} steps"
    course = _course(*_first_and_last_means(log, "loss"))
    sentence = f"Over {steps} the loss {course}"
    if _has(log, "rewards/accuracies"):
        _, share = _first_and_last_means(log, "rewards/accuracies")
        percent = format_percent(share)
        sentence += (
            f"; at the end the chosen item is ahead of every rejected one in {percent} of rows"
        )
    return f"{sentence}."


def _course(first: float, last: float) -> str:
    before = format_number(first)
    after = format_number(last)
    # Two numbers that read the same are no fall to a reader.
    if before == after:
        return f"was {before}"
    if last < first:
        return f"fell from {before} to {after}"
    return f"rose from {before} to {after}"


def _grouping_note(logs: Sequence[TrainingLog]) -> str:
    longest = max(map(len, logs), default=0)
    if longest <= _MAX_SINGLE_STEPS:
        return ""
    return (
        "Long runs are drawn as means of neighbouring steps; a pale band spans lowest to highest, "
        "where there is one."
    )
