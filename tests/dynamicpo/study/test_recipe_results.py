"""`make results`: its claims by hand, and its cells on a small table."""

import json
from pathlib import Path

import numpy as np
import pytest

from dynamicpo.metrics.intervals import holm
from dynamicpo.study.contrasts import contrast
from tests.benchmarks.results import SPLITS, plan, write_report
from tests.benchmarks.results_cells import Cell, cell_configs, prepare, run_cell
from tests.benchmarks.results_claims import CLAIMS, Claim, Measured, judge
from tests.fixtures.tables import write_tables

SEEDS, ROWS = 5, 400
USERS = [f"u{row // 4}" for row in range(ROWS)]


def hits(share: float, number: int) -> np.ndarray:
    return (np.random.default_rng(number).random((SEEDS, ROWS)) < share).astype(float)


@pytest.fixture(scope="module")
def measured() -> Measured:
    names = {"dynamicpo-dmpo": 0.5, "sft": 0.3, "dmpo": 0.495, "sasrec": 0.5}
    values = {name: hits(share, number) for number, (name, share) in enumerate(names.items())}
    return Measured(values, USERS)


def test_claims_are_contrasts_over_users_and_seeds_corrected_together(measured: Measured) -> None:
    findings = judge(measured)
    ours = measured.values["dynamicpo-dmpo"]
    expected = [contrast(ours - claim.bound, measured.values[claim.b], USERS).p for claim in CLAIMS]
    assert [finding.p for finding in findings] == holm(expected)
    for finding, claim in zip(findings, CLAIMS, strict=True):
        means = ours.mean() - measured.values[claim.b].mean()
        assert finding.difference == pytest.approx(means)
        assert finding.low < finding.difference < finding.high
    assert [finding.holds for finding in findings][:2] == [True, False]


@pytest.mark.parametrize(("loss", "holds"), [(0.0, True), (0.01, True), (0.03, False)])
def test_not_inferior_is_a_lower_bound_above_the_margin(loss: float, holds: bool) -> None:
    # Equal but for one row in a hundred that is lost, the same in every seed.
    base = hits(0.5, 1)
    worse = base - loss
    measured = Measured({"a": worse + 1e-6 * hits(0.5, 2), "b": base}, USERS)
    (finding,) = judge(measured, [Claim("a", "b", bound=-0.02)])
    assert finding.holds is holds
    assert finding.difference == pytest.approx(-loss, abs=1e-5)


def test_cells_repeat_all_with_their_seed() -> None:
    cells = plan(5)
    assert len(cells) == 10 and {cell.split for cell in cells} == {*SPLITS}
    configs = cell_configs(Cell("leave-one-out", 3), {})
    assert configs.data.split == "leave-one-out"
    stages = (configs.negatives, configs.sft, configs.preference, configs.evaluation)
    assert [stage.seed for stage in stages] == [3, 3, 3, 3]
    assert configs.negatives.strategy == "popularity"
    assert (configs.evaluation.split, configs.evaluation.sasrec) == ("test", True)


@pytest.mark.training
def test_small_cells_end_in_a_table_and_are_kept(tmp_path: Path) -> None:
    interactions, items = write_tables(tmp_path)
    changes = {
        "data_source": "table",
        "data_interactions": interactions,
        "data_items": items,
        "negatives_num_candidates": 6,
        "negatives_allow_leak": True,
        "sft_max_steps": 2,
        "preference_num_negatives": 5,
        "preference_max_steps": 2,
        "evaluation_allow_leak": True,
        "evaluation_resamples": 100,
    }
    cells = [cell._replace(strategies=cell.strategies[:1]) for cell in plan(1)]
    for cell in cells:
        prepare(cell, tmp_path, changes)
        run_cell(cell, tmp_path, changes)
    write_report(tmp_path, cells)
    numbers = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    for split, title in SPLITS.items():
        assert title in text
        assert len(numbers[split]["claims"]) == 3
        assert len(numbers[split]["listed"]["sasrec"]) == 1
    assert "| | popularity-weighted | uniform |" in text
    made = (tmp_path / cells[0].name / "sft" / "manifest.json").stat().st_mtime_ns
    run_cell(cells[0], tmp_path, changes)
    assert (tmp_path / cells[0].name / "sft" / "manifest.json").stat().st_mtime_ns == made
