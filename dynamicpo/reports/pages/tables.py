"""Tables of metrics and differences, for a page, for Markdown and for the terminal."""

import html
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dynamicpo.reports.charts.numbers import (
    columns,
    interval,
    number,
    one_line,
    short_names,
    shorten,
)

HEADLINE_METRICS = ("hit_ratio_at_1", "hit_ratio_at_5", "ndcg_at_5")
_ACCURACY = re.compile(r"^(hit_ratio_at_\d+|ndcg_at_\d+|mrr)$")
_SPLITS = ("test", "validation", "train")
_WORDS = {
    "hit_ratio": "HitRatio",
    "valid_ratio": "ValidRatio",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "gini": "Gini",
}

Metrics = Mapping[str, Mapping[str, float]]


class Cell(NamedTuple):
    """What a table holds: a text, its interval or other detail in small print, and whether it stands out."""

    text: str
    detail: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under column names.

    Attributes:
        columns: Their names.
        rows: As many cells each as there are columns.
        text_columns: Places of the columns that hold words and not numbers.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: Collection[int] = (0,)


def metrics_table(metrics: Metrics, names: Sequence[str] = HEADLINE_METRICS) -> Table:
    """Models by metrics, each with its interval where `_low` and `_high` are there; the best of a measure stands out.

    Args:
        metrics: Flat metrics of each model, such as `test_hit_ratio_at_1`.
        names: Which ones, with or without the split in front. Those that no model has are left out.
    """
    wanted = [
        key for name in names for key in metric_names(metrics) if name in (key, plain_name(key))
    ]
    best = {
        key: max((value_of(flat, key) for flat in metrics.values()), default=math.nan)
        for key in wanted
    }
    rows = [
        [Cell(name), *(_metric_cell(flat, key, best[key]) for key in wanted)]
        for name, flat in zip(short_names(list(metrics)), metrics.values(), strict=True)
    ]
    splits = {split_of(key) for key in wanted}
    heads = [metric_label(key, with_split=len(splits) > 1) for key in wanted]
    return Table(["", *heads], rows)


def differences_table(comparisons: Sequence[Mapping[str, Any]]) -> Table:
    """Paired differences: what is compared, the difference with its interval, p after Holm, rows won and lost.

    Args:
        comparisons: Each with `a`, `b`, `metric`, `difference` (a less b), `low`, `high`, and where known `p`,
            `p_holm`, `won` and `lost` (rows in which a, or b, ranks the right item better).
    """
    rows = []
    for entry in comparisons:
        value, low, high = (value_of(entry, key) for key in ("difference", "low", "high"))
        rows.append(
            [
                Cell(shorten(entry["a"], 40)),
                Cell(shorten(entry["b"], 40)),
                Cell(metric_label(str(entry["metric"]))),
                Cell(signed(value), interval(low, high), is_clear(entry)),
                Cell(p_value(value_of(entry, "p"))),
                Cell(p_value(value_of(entry, "p_holm"))),
                Cell(count(value_of(entry, "won"))),
                Cell(count(value_of(entry, "lost"))),
                Cell(verdict(entry)),
            ]
        )
    heads = [
        "a",
        "b",
        "measure",
        "a less b",
        "p",
        "p (Holm)",
        "rows won by a",
        "rows lost",
        "reading",
    ]
    return Table(heads, rows, (0, 1, 2, 8))


def is_clear(entry: Mapping[str, Any]) -> bool:
    """Whether a difference is not noise: its interval excludes 0 and p after Holm, where known, is under .05."""
    low, high, p = (value_of(entry, key) for key in ("low", "high", "p_holm"))
    return (low > 0 or high < 0) and not p >= 0.05


def verdict(entry: Mapping[str, Any]) -> str:
    """Which of the two is better, in words."""
    if math.isnan(value_of(entry, "low")):
        return "interval not available"
    if not is_clear(entry):
        return "no clear difference"
    return "a is better" if value_of(entry, "difference") > 0 else "b is better"


def metric_names(metrics: Metrics) -> list[str]:
    """All metrics of all models in the order they come, without the bounds of intervals."""
    every = dict.fromkeys(key for flat in metrics.values() for key in flat)
    return [
        key
        for key in every
        if not (key.endswith(("_low", "_high")) and key.rsplit("_", 1)[0] in every)
    ]


def is_accuracy(name: str) -> bool:
    """Whether a metric says how well the right item is ranked."""
    return bool(_ACCURACY.match(plain_name(name)))


def split_of(name: str) -> str:
    """`test` of `test_mrr`; nothing where no split is named."""
    first = name.split("_", 1)[0]
    return first if first in _SPLITS else ""


def plain_name(name: str) -> str:
    """`mrr` of `test_mrr`."""
    return name.removeprefix(f"{split_of(name)}_")


def metric_label(name: str, with_split: bool = False) -> str:
    """`HitRatio@1` of `test_hit_ratio_at_1`."""
    text = re.sub(r"_at_(\d+)", r"@\1", plain_name(name))
    for word, label in _WORDS.items():
        text = re.sub(rf"(?<![a-z]){word}(?![a-z])", label, text)
    text = text.replace("_", " ")
    text = text if any(c.isupper() for c in text) else text[:1].upper() + text[1:]
    return f"{text} ({split_of(name)})" if with_split and split_of(name) else text


def signed(value: float) -> str:
    """A difference: `+.129`, `−.012`."""
    return f"+{number(value)}" if value > 0 else number(value)


def p_value(value: float) -> str:
    """`.021`, `< .001`."""
    return "< .001" if value < 0.001 else number(value)


def count(value: float) -> str:
    """`1,682`; a dash where it is missing."""
    return "–" if math.isnan(value) else f"{value:,.0f}"


def text_table(table: Table) -> str:
    """A table for the terminal: aligned, without a newline at the end."""
    grid = [[_plain(one_line(name)) for name in table.columns]]
    grid += [
        [_plain(one_line(f"{cell.text} {cell.detail}".strip())) for cell in row]
        for row in table.rows
    ]
    widths = [max(columns(row[place]) for row in grid) for place in range(len(table.columns))]
    lines = []
    for row in grid:
        padded = [
            text + gap if place in table.text_columns else gap + text
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
            for gap in [" " * (width - columns(text))]
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown_table(table: Table) -> str:
    """A table in Markdown, with a newline at the end; names that look like markup stay text."""
    rule = ["---" if place in table.text_columns else "---:" for place in range(len(table.columns))]
    rows = [[_markdown(name) for name in table.columns], rule]
    for row in table.rows:
        texts = [
            f"**{_markdown(cell.text)}**" if cell.strong else _markdown(cell.text) for cell in row
        ]
        rows.append([f"{t} {_markdown(c.detail)}".strip() for t, c in zip(texts, row, strict=True)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _metric_cell(flat: Mapping[str, Any], key: str, best: float) -> Cell:
    value = value_of(flat, key)
    bounds = interval(value_of(flat, f"{key}_low"), value_of(flat, f"{key}_high"))
    whole = "_at_" not in key and value.is_integer() and abs(value) > 1
    return Cell(
        count(value) if whole else number(value), bounds, is_accuracy(key) and value == best
    )


def value_of(flat: Mapping[str, Any], key: str) -> float:
    """A number that may be missing, or None: NaN then."""
    value = flat.get(key)
    return math.nan if value is None else float(value)


def _plain(text: str) -> str:
    """Signs that every terminal has."""
    return text.replace("−", "-").replace("–", "-").replace("…", "...").replace("≤", "<=")


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_|\[\]~])", r"\\\1", html.escape(one_line(text), quote=False))
