"""What a training run did, step by step: its own page, and several runs overlaid."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dynamicpo.reports.charts.numbers import number
from dynamicpo.reports.charts.plots import curves
from dynamicpo.reports.pages.layout import Figure, Section, page
from dynamicpo.reports.pages.tables import Cell, Table
from dynamicpo.reports.training_log import GRADIENT, RELATIVE, Steps, with_relative_gradient


class _Curve(NamedTuple):
    key: str
    title: str
    unit: str
    caption: str
    y_range: tuple[float | None, float | None] = (None, None)
    reference: tuple[str, float] | None = None


_SHARE = (0, 1.02)
_CURVES = (
    _Curve(
        "loss",
        "Loss",
        "nats, mean over the batch",
        "What training lowers. A lower loss means that the rows shown are fitted better, not that ranking gets better.",
    ),
    _Curve(
        RELATIVE,
        "Boundary gradient, against the first steps",
        "1 = as strong as at the start",
        "How hard the loss still pulls on the rejected items that are easiest to confuse with the right one. Near 0 "
        "they are no longer learnt from, although the loss may go on falling.",
        (0, None),
        ("start", 1.0),
    ),
    _Curve(
        GRADIENT,
        "Boundary gradient",
        "size, mean over boundary items",
        "The same pull in absolute terms: the size of the loss's gradient at their log-probability. Compare courses, "
        "not levels: the level falls with the number of rejected items.",
        (0, None),
    ),
    _Curve(
        "rewards/accuracies",
        "Chosen item ahead of every rejected one",
        "share of rows",
        "Share of rows whose chosen item has gained more than every single rejected one since training began.",
        _SHARE,
    ),
    _Curve(
        "rewards/margins",
        "Reward margin",
        "chosen less rejected",
        "By how much the chosen item has gained more than the rejected ones, on average: higher is further apart.",
        reference=("start", 0.0),
    ),
    _Curve(
        "rewards/chosen",
        "Reward of chosen items",
        "beta times nats",
        "How much likelier the chosen item has become since training began: above 0 likelier, below 0 less likely.",
        reference=("start", 0.0),
    ),
    _Curve(
        "rewards/rejected",
        "Reward of rejected items",
        "beta times nats",
        "The same for the items that were not chosen, on average: this should fall below the reward of the chosen.",
        reference=("start", 0.0),
    ),
    _Curve(
        "logps/chosen",
        "Log-probability of the chosen item",
        "nats",
        "How likely the model finds the chosen item. If it falls, training pushes the chosen item down as well.",
    ),
    _Curve(
        "boundary_fraction",
        "Boundary items",
        "share of rejected items",
        "Share of the rejected items that are easiest to confuse with the right one: those the model prefers to it or, "
        "where there is none, the group it finds likeliest.",
        _SHARE,
    ),
    _Curve(
        "violation_share",
        "Rows with a violation",
        "share of rows",
        "Share of rows in which the model finds at least one rejected item as likely as the chosen one, or likelier.",
        _SHARE,
    ),
    _Curve(
        "boundary_beta",
        "Beta of boundary items",
        "mean over them",
        "How firmly such items are held to where the model started. DynamicPO sets it for each of them, between .5 and "
        "1.5 times the configured beta; elsewhere it is constant.",
    ),
    _Curve(
        "learning_rate",
        "Learning rate",
        "per step",
        "The size of a step, as scheduled beforehand.",
        (0, None),
    ),
    _Curve(
        "grad_norm",
        "Gradient norm",
        "before clipping",
        "The length of the gradient over all weights: spikes are unstable steps.",
        (0, None),
    ),
)


def training_page(
    steps: Steps, title: str, facts: Mapping[str, Any], warnings: Sequence[str] = ()
) -> str:
    """The page of one training run.

    Args:
        steps: The training log, one mapping a step. Curves that it does not have are left out.
        title: Which run.
        facts: Configuration, counts, fingerprints; may be nested.
        warnings: Red lines.
    """
    steps = with_relative_gradient(steps)
    shown = [curve for curve in _CURVES if _has(steps, curve.key)]
    sections = [
        Section(
            "First and last",
            "Means over the first and the last tenth of the steps.",
            _first_and_last(steps, shown),
        ),
        Section("Curves", figures=_figures(steps, shown), note=_means_note([steps])),
    ]
    return page(title, _headline(steps), sections if shown else [], facts, warnings)


def overlay(runs: Mapping[str, Steps]) -> list[Section]:
    """Sections with the curves of several runs laid over each other: what the paper is about first."""
    runs = {name: with_relative_gradient(steps) for name, steps in runs.items()}
    preference = {
        name: steps if _has(steps, "rewards/margins") else () for name, steps in runs.items()
    }
    tuning = {name: () if _has(steps, "rewards/margins") else steps for name, steps in runs.items()}
    first = (RELATIVE, GRADIENT, "boundary_beta")
    order = sorted(
        _CURVES, key=lambda curve: first.index(curve.key) if curve.key in first else len(first)
    )
    text = "Loss levels of different objectives can't be compared; their course can."
    sections = []
    for heading, group, words in (
        ("Preference training", preference, text),
        ("Fine-tuning", tuning, ""),
    ):
        figures = [
            Figure(_chart(group, curve), curve.caption)
            for curve in order
            if any(_has(steps, curve.key) for steps in group.values())
        ]
        if figures:
            sections.append(
                Section(
                    f"{heading}: curves",
                    words,
                    figures=figures,
                    note=_means_note([*group.values()]),
                )
            )
    return sections


def _figures(steps: Steps, shown: Sequence[_Curve]) -> list[Figure]:
    figures = []
    for curve in shown:
        if curve.key == "rewards/chosen" and _has(steps, "rewards/rejected"):
            pair = {
                "chosen": _points(steps, curve.key),
                "rejected": _points(steps, "rewards/rejected"),
            }
            svg = curves(pair, "Rewards", curve.unit, references={"start": 0.0})
            text = (
                "How much likelier the chosen item, and the rejected ones on average, have become since training "
                "began: the first should end above the second."
            )
            figures.append(Figure(svg, text))
        elif curve.key != "rewards/rejected" or not _has(steps, "rewards/chosen"):
            figures.append(Figure(_chart({curve.title: steps}, curve), curve.caption))
    return figures


def _chart(runs: Mapping[str, Steps], curve: _Curve) -> str:
    series = {name: _points(steps, curve.key) for name, steps in runs.items()}
    references = dict([curve.reference]) if curve.reference else {}
    return curves(series, curve.title, curve.unit, y_range=curve.y_range, references=references)


def _points(steps: Steps, key: str) -> tuple[list[float], list[float]]:
    entries = [
        (float(entry.get("step", place + 1)), float(entry[key]))
        for place, entry in enumerate(steps)
        if _ok(entry, key)
    ]
    return [x for x, _ in entries], [y for _, y in entries]


def _ok(entry: Mapping[str, Any], key: str) -> bool:
    return entry.get(key) is not None


def _has(steps: Steps, key: str) -> bool:
    return any(_ok(entry, key) for entry in steps)


def _ends(steps: Steps, key: str) -> tuple[float, float]:
    """Means over the first and the last tenth of the steps, of what is finite."""
    values = [value for value in _points(steps, key)[1] if math.isfinite(value)]
    tenth = max(1, len(values) // 10)
    first, last = values[:tenth], values[-tenth:]
    return (sum(first) / len(first), sum(last) / len(last)) if values else (math.nan, math.nan)


def _first_and_last(steps: Steps, shown: Sequence[_Curve]) -> Table:
    rows = []
    for curve in shown:
        first, last = _ends(steps, curve.key)
        rows.append([Cell(curve.title, curve.unit), Cell(number(first)), Cell(number(last))])
    return Table(["", "first", "last"], rows)


def _headline(steps: Steps) -> list[str]:
    if not _has(steps, "loss"):
        return ["No training step was recorded."]
    many = f"{len(steps):,} {'step' if len(steps) == 1 else 'steps'}"
    sentences = [f"Over {many} the loss {_course(*_ends(steps, 'loss'))}"]
    if _has(steps, "rewards/accuracies"):
        share = _percent(_ends(steps, "rewards/accuracies")[1])
        sentences[0] += (
            f"; at the end the chosen item is ahead of every rejected one in {share} of rows"
        )
    sentences[0] += "."
    if not math.isfinite(_points(steps, "loss")[1][-1]):
        sentences.append("The loss of the last step is not a finite number: training diverged.")
    if _has(steps, RELATIVE):
        share = _percent(_ends(steps, RELATIVE)[1])
        pull = "The pull on the items that are easiest to confuse with the right one"
        sentences.append(f"{pull} ended at {share} of its size over the first steps.")
    return sentences


def _course(first: float, last: float) -> str:
    before, after = number(first), number(last)
    if before == after:
        return f"was {before}"
    return f"{'fell' if last < first else 'rose'} from {before} to {after}"


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.0f} %"


def _means_note(runs: Sequence[Steps]) -> str:
    if max(map(len, runs), default=0) <= 60:
        return ""
    return "Long runs are drawn as means of neighbouring steps; a pale band spans lowest to highest, where there is one."
