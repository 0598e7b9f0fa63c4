"""A search for a dynamic beta that pays: what is planned, chosen and compared, by made-up hits."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.beta_search import (
    CHOOSING_SEED,
    CONFIRMING_SEEDS,
    CONTEXTS,
    DEFAULT,
    DYNAMIC,
    FIXED,
    Arm,
    Cell,
    Hits,
    best_arm,
    confirm,
    plan,
    prepare,
    run_cells,
    study_configs,
    write_report,
)
from tests.fixtures.tables import write_tables

ROWS = 600
USERS = [f"u{row // 4}" for row in range(ROWS)]
GOOD_FIXED, GOOD_DYNAMIC = Arm(0.5), Arm(2.0, 2.0)


@pytest.fixture(scope="module")
def hits() -> Hits:
    """Two arms that are better than the others with the seed that chooses."""
    draw = np.random.default_rng(0)
    by_cell = {}
    for seed in (CHOOSING_SEED, *CONFIRMING_SEEDS):
        for cell in plan(FIXED + DYNAMIC, [seed]):
            is_good = cell.arm in (GOOD_FIXED, GOOD_DYNAMIC)
            # What was chosen by luck is not good again.
            is_lucky = cell.arm == GOOD_FIXED and seed == CHOOSING_SEED
            share = 0.6 if is_lucky or (is_good and cell.arm == GOOD_DYNAMIC) else 0.4
            by_cell[cell] = (draw.random(ROWS) < share).astype(float)
    return Hits(by_cell, USERS)


def test_no_more_cells_are_planned_than_were_stated() -> None:
    first = plan(FIXED + DYNAMIC, [CHOOSING_SEED])
    second = plan([FIXED[0], DYNAMIC[0], DEFAULT], CONFIRMING_SEEDS)
    assert (len({*first}), len({*second})) == (52, 36)
    assert DEFAULT in DYNAMIC


def test_arms_are_chosen_on_one_seed_and_compared_on_others(hits: Hits) -> None:
    assert best_arm(hits, FIXED) == GOOD_FIXED
    assert best_arm(hits, DYNAMIC) == GOOD_DYNAMIC
    found = confirm(hits)
    assert [*found] == ["dynamic-2-m2 - fixed-0.5", "dynamic-1-m6 - fixed-0.5"]
    better, same = found.values()
    assert better.low > 0.1 and better.p < 0.05
    assert same.low < 0 < same.high


@pytest.mark.training
def test_cells_are_trained_and_reported_from_small_tables(tmp_path: Path, hits: Hits) -> None:
    interactions, items = write_tables(tmp_path)
    changes = {
        "data_source": "table",
        "data_interactions": interactions,
        "data_items": items,
        "sft_max_steps": 2,
        "negatives_settings": {"allow_leak": True},
        "preference_settings": {"max_steps": 2},
        "evaluation_settings": {"allow_leak": True, "resamples": 100},
    }
    configs = study_configs(changes)
    assert configs.evaluation.split == "validation"
    prepare(tmp_path, configs, changes)
    cells = [Cell(CONTEXTS[0], arm, CHOOSING_SEED) for arm in (FIXED[0], DEFAULT)]
    trained = run_cells(cells, tmp_path, 1, configs)
    assert {*trained.by_cell} == {*cells}
    settings = [
        json.loads((tmp_path / cell.name / "manifest.json").read_text())["config"] for cell in cells
    ]
    assert [entry["dynamic"] for entry in settings] == ["selection", "full"]
    assert [(entry["beta"], entry["margin"]) for entry in settings] == [(0.25, 6.0), (1.0, 6.0)]
    write_report(tmp_path, hits)
    numbers = json.loads((tmp_path / "beta-search.json").read_text())
    assert len(numbers["cells"]) == 52 * 4 and len(numbers["differences"]) == 2
