"""What recommending costs: measured, read back, and added to the page of a run."""

import json
import time
from pathlib import Path

import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.evaluation.costs import CostMeter, read_costs
from dynamicpo.reports.pages.costs import Cost, with_costs
from dynamicpo.reports.pages.layout import Section, page

PAGE = page("Comparison", ["Ship it."], [Section("Every model")], {"seed": 0})
COST = Cost(seconds=4.25, peak_megabytes=1234.5)


def test_costs_are_of_a_thousand_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0, 20.0, 23.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    meter = CostMeter()
    with meter.measured("sft", "listed", 500):
        pass
    with meter.measured("sft", "catalogue", 3000):
        pass
    meter.write(tmp_path)
    costs = read_costs(tmp_path)["sft"]
    assert (costs["listed"]["seconds"], costs["catalogue"]["seconds"]) == (4.0, 1.0)


@pytest.mark.parametrize("content", ["{", "[]", '{"costs": {"a": {"listed": {"seconds": "x"}}}}'])
def test_a_damaged_record_is_one_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="run.json: must be"):
        read_costs(tmp_path)


def test_an_evaluation_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    assert read_costs(tmp_path) == {}
    (tmp_path / "run.json").write_text(json.dumps({"duration_seconds": 1.0}), encoding="utf-8")
    assert read_costs(tmp_path) == {}


def test_costs_are_added_to_a_page_and_escaped() -> None:
    assert with_costs(PAGE, {}) == PAGE
    html = with_costs(PAGE, {"sft": {"listed": COST, "catalogue": COST}, "<b>": {"listed": COST}})
    section = html[html.index("<h2>What it costs</h2>") : html.index("</main>")]
    assert "4.25" in section and "1,234" in section and "–" in section
    assert "&lt;b&gt;" in section and "<b>" not in html
    # Nothing else of the page has changed.
    before, end, after = PAGE.partition("</main>")
    assert html.startswith(before) and html.endswith(end + after)
