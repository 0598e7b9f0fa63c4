"""Charts: the same bytes anywhere, nothing from outside, readable without colour, no hidden gap."""

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from dynamicpo.reports.charts.bars import Estimate, bars_with_intervals, histogram
from dynamicpo.reports.charts.curves import curves, scaling
from dynamicpo.reports.charts.ranks import rank_curves, rank_groups, rank_histogram
from dynamicpo.reports.charts.style import CHART_WIDTH
from dynamicpo.reports.charts.svg import chart_grid
from dynamicpo.reports.labels import display_width, short_names, shorten
from dynamicpo.reports.number_format import format_number, tick_labels

STEPS = list(range(1, 41))
HOSTILE = '<script>alert(1)</script> & $x^2$ "quoted" \x00\x07\n::'


def falling(start: float = 1.0, steps: int = 40) -> tuple[list[int], list[float]]:
    return list(range(1, steps + 1)), [start * math.exp(-step / 20) for step in range(steps)]


def all_charts(name: str) -> list[str]:
    """One of each kind, with `name` wherever a name goes."""
    return [
        curves({name: falling(), "b": falling(2)}, name, name, name, references={name: 0.5}),
        bars_with_intervals({name: Estimate(0.4, 0.3, 0.5), "b": Estimate(-0.1)}, name, name),
        histogram([3, 1], [name, "b"], name, name, references={name: 0.5}),
        rank_histogram([5, 3, 2], name, 1),
        rank_curves({name: [5, 3, 2], "b": [1, 1, 8]}, name),
        scaling(
            {name: [(1, 0.3, 0.2, 0.4), (19, 0.4, 0.3, 0.5)], "b": [(1, 0.1, math.nan, math.nan)]},
            name,
        ),
    ]


def texts(svg: str) -> list[str]:
    return [
        node.text or ""
        for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def line_points(svg: str, index: int = 0) -> list[tuple[float, float]]:
    """The corners of a series' line, in units of the SVG."""
    colour = ("#0072b2", "#d55e00", "#009e73")[index]
    path = next(
        p
        for p in re.findall(r"<path [^>]*>", svg)
        if f"stroke: {colour}" in p and "fill: none" in p
    )
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)]


def test_bytes_do_not_depend_on_settings_and_leave_them_alone() -> None:
    before = all_charts("a")
    with matplotlib.rc_context(
        {"font.size": 30, "svg.hashsalt": None, "lines.linewidth": 9, "axes.facecolor": "red"}
    ):
        assert all_charts("a") == before
        assert matplotlib.rcParams["font.size"] == 30


def test_drawing_needs_no_pyplot() -> None:
    code = """
import sys
from dynamicpo.reports.charts.curves import curves
curves({"a": ([1], [2])}, "t")
print(*sys.modules)
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "matplotlib.figure" in loaded
    assert "matplotlib.pyplot" not in loaded


@pytest.mark.parametrize("svg", all_charts("a"))
def test_charts_scale_and_hold_nothing_from_outside(svg: str) -> None:
    assert re.match(rf'<svg [^>]*width="100%"[^>]*viewBox="0 0 {CHART_WIDTH} [\d.]+"', svg)
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#)", svg)
    assert not re.search(r"url\((?!#)", svg)
    assert "<metadata" not in svg and "<style" not in svg and "<!DOCTYPE" not in svg
    ids = re.findall(r' id="([^"]+)"', svg)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= set(ids)


def test_ids_differ_between_charts() -> None:
    ids = [name for svg in all_charts("a") for name in re.findall(r' id="([^"]+)"', svg)]
    assert len(ids) > 6
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("svg", all_charts(HOSTILE))
def test_hostile_names_are_text(svg: str) -> None:
    tree = ElementTree.fromstring(svg)  # well-formed, although the name holds control characters
    assert not [node for node in tree.iter() if node.tag.endswith("script")]
    assert tree.attrib["aria-label"] == '<script>alert(1)</script> & $x^2$ "quoted" ::'
    assert any("<script>alert(1)</script> &" in text for text in texts(svg))


def test_lines_differ_without_colour() -> None:
    svg = curves({name: falling(index) for index, name in enumerate("abcdef", 1)}, "t")
    lines = [
        p
        for p in re.findall(r"<path [^>]*>", svg)
        if "stroke-width: 1.8" in p and "fill: none" in p
    ]
    dashes = {
        re.sub(r".*stroke-dasharray: ([\d.,]+).*|.*", r"\1", line, flags=re.S) for line in lines
    }
    assert len(dashes) == 6
    assert (
        len(
            {p for p in re.findall(r'<path id="[^"]*" d="([^"]*)"', svg) if p.strip().endswith("z")}
        )
        == 6
    )


def test_bars_differ_without_colour() -> None:
    svg = bars_with_intervals({name: Estimate(1, 0.9, 1.1) for name in "abcdef"}, "t")
    hatches = re.findall(r"<pattern.*?</pattern>", svg, flags=re.S)
    assert (
        len({re.sub(r'id="[^"]*"|#[0-9a-f]{6}', "", hatch) for hatch in hatches}) == 5
    )  # and one without


def test_a_series_keeps_its_colour_when_another_is_empty() -> None:
    alone = curves({"a": ([], []), "b": falling(), "c": falling(2)}, "t")
    assert line_points(alone, 1) == line_points(
        curves({"x": ([], []), "b": falling(), "c": falling(2)}, "t"), 1
    )
    assert "a" not in texts(alone)
    assert {"b", "c"} <= set(texts(alone))


def test_a_line_is_where_its_values_are() -> None:
    points = line_points(curves({"a": ([0, 1, 3], [0.0, 1.0, 3.0])}, "t"))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert (x2 - x0) == pytest.approx(3 * (x1 - x0), rel=1e-4)
    assert (y0 - y2) == pytest.approx(3 * (y0 - y1), rel=1e-4)
    assert y2 < y0


def test_long_runs_are_drawn_as_means_of_groups() -> None:
    alternating = (list(range(1200)), [float(step % 2) for step in range(1200)])
    few = line_points(curves({"a": alternating}, "t"))
    assert len({y for _, y in few}) == 1  # every group of ten has the mean .5
    many = curves({name: falling(steps=1200) for name in "abc"}, "t")
    assert 30 < len(line_points(many)) <= 60


def test_missing_values_are_left_out_and_counted() -> None:
    svg = curves({"a": ([1, 2, 3, 4, 5], [1.0, math.nan, math.inf, -1e300, 2.0])}, "t")
    assert "3 values are NaN or infinite and not drawn." in texts(svg)
    assert "1 value is NaN or infinite and not drawn." in texts(
        curves({"a": ([1, 2], [1.0, math.nan])}, "t")
    )


@pytest.mark.parametrize(
    "svg",
    [
        curves({}, "t"),
        curves({"a": ([], [])}, "t", "unit", references={"start": 1.0}),
        curves({"a": ([1, 2], [math.nan, math.inf])}, "t", y_range=(0, None)),
        bars_with_intervals({}, "t"),
        histogram([], [], "t"),
        rank_histogram([0, 0], "t"),
        rank_curves({"a": []}, "t"),
        scaling({"a": []}, "t", references={"SFT": 0.3}),
        scaling({"a": [(1, math.nan, math.nan, math.nan)]}, "t"),
    ],
)
def test_nothing_to_show_is_said(svg: str) -> None:
    assert "Nothing to show." in texts(svg)
    assert "t" in texts(svg)


def test_one_point_is_a_marker() -> None:
    svg = curves({"a": ([7], [0.5])}, "t")
    assert re.search(r'<use [^>]*style="fill: #0072b2', svg)
    assert "7" in texts(svg)


def test_missing_estimate_is_a_dash_and_a_missing_interval_is_left_out() -> None:
    svg = bars_with_intervals({"a": Estimate(math.nan), "b": Estimate(0.25)}, "t")
    assert {"–", ".250"} <= set(texts(svg))


def test_bars_say_their_numbers() -> None:
    svg = bars_with_intervals({"sft": Estimate(0.286, 0.27, 0.302)}, "HitRatio@1")
    assert {"HitRatio@1", "sft", ".286 [.270, .302]"} <= set(texts(svg))


def test_references_are_named_after_the_lines() -> None:
    svg = scaling({"DMPO": [(1, 0.3, 0.2, 0.4)]}, "t", references={"SFT": 0.286})
    assert texts(svg).index("DMPO") < texts(svg).index("SFT .286")


def test_rank_groups_keep_every_row() -> None:
    assert rank_groups([5, 3, 2]) == (["1", "2", "3"], [5, 3, 2])
    labels, grouped = rank_groups(np.ones(1682))
    assert labels == [
        "1",
        "2",
        "3",
        "4",
        "5",
        *(f"≤{end}" for end in (10, 20, 50, 100, 200, 500, 1000, 1682)),
    ]
    assert grouped == [1, 1, 1, 1, 1, 5, 10, 30, 50, 100, 300, 500, 682]


def test_rank_curve_ends_at_one() -> None:
    values = line_points(rank_curves({"a": [2, 1, 1], "b": [0, 0, 4]}, "t"))
    heights = [values[-1][1] - y for _, y in values]
    assert heights[0] == pytest.approx(2 * heights[1], rel=1e-3)  # .5, .75, 1 of the rows
    assert heights[2] == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.286, ".286"),
        (-0.0123, "−.012"),
        (0, ".000"),
        (1, "1.000"),
        (12.345, "12.35"),
        (212.34, "212.3"),
        (1682, "1,682"),
        (2e-5, "2e−5"),
        (-1.25e-4, "−.00013"),
        (3.2e10, "3.2e10"),
        (math.nan, "–"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers_as_a_reader_sees_them(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0, 0.25, 0.5], ["0", ".25", ".5"]),
        ([-2, 0, 2], ["−2", "0", "2"]),
        ([1.95, 2, 2.025], ["1.95", "2", "2.025"]),
        ([0, 10000, 20000], ["0", "10,000", "20,000"]),
        ([0, 2e-5, 4e-5], ["0", "2e−5", "4e−5"]),
        ([], []),
    ],
)
def test_tick_labels_are_short_and_exact(ticks: list[float], labels: list[str]) -> None:
    assert tick_labels(ticks) == labels


def test_shortened_names_stay_distinct_and_fit() -> None:
    names = [f"{'run ' * 30}{index}{' of many' * 30}" for index in range(3)]
    short = short_names([*names, "dmpo", ""])
    assert len(set(short)) == 5
    assert short[3:] == ["dmpo", "(no name)"]
    assert all(display_width(name) <= 42 for name in short)
    assert display_width(shorten("映画" * 40, 20)) <= 20


def test_charts_stand_beside_each_other_in_one_file() -> None:
    """Two to a row; a row is as high as its highest chart; ids stay those of each chart."""
    parts = all_charts("a")[:3]
    root = ElementTree.fromstring(chart_grid(parts, 2))
    inner = root.findall("{http://www.w3.org/2000/svg}svg")
    heights = [float(ElementTree.fromstring(part).attrib["viewBox"].split()[3]) for part in parts]
    gap = float(inner[0].attrib["x"])
    assert [float(part.attrib["x"]) for part in inner] == [gap, 2 * gap + CHART_WIDTH, gap]
    assert [float(part.attrib["y"]) for part in inner] == pytest.approx(
        [gap, gap, 2 * gap + max(heights[:2])]
    )
    assert [float(part.attrib["height"]) for part in inner] == pytest.approx(heights)
    assert float(root.attrib["height"]) == pytest.approx(3 * gap + max(heights[:2]) + heights[2])
    assert root[0].attrib["fill"] == "#ffffff"
    ids = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
    assert len(ids) == len(set(ids))


def test_limits_of_y_can_be_shared() -> None:
    """A rise of 0.1 on a plot 190 units high is half of its own limits, and a tenth of 0 to 1."""
    points = [(1, 0.4, 0.35, 0.45), (19, 0.5, 0.45, 0.55)]
    for limits, share in ((0.35, 0.55), 0.5), ((0, 1), 0.1):
        (_, first), (_, last) = line_points(scaling({"a": points}, "t", y_range=limits))
        assert first - last == pytest.approx(share * 190, abs=0.5)
