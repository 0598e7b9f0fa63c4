"""The retraining pipeline: run from its compiled file by the backend's rules, and its wiring."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.promotion.champion import read_moves
from dynamicpo.promotion.retraining_history import read_retrainings
from dynamicpo.runs.compile import compile_pipeline
from tests.fixtures.backend import Backend

IMAGE = "registry.invalid/dynamicpo@sha256:" + 64 * "a"
ANEW = {"plan-retraining", "check-window", "challenge-champion", "compare-evaluations"}
DAY = 86_400
START = 1_704_067_200  # 2024-01-01
STEPS = {"max_steps": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "retraining.yaml"
    compile_pipeline("retraining", path, IMAGE, {"gpu_count": 0})
    return path


@pytest.fixture(scope="module")
def spec(file: Path) -> dict[str, Any]:
    return dict(next(yaml.safe_load_all(file.read_text(encoding="utf-8"))))


def tasks_of(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All tasks that run a container, by name."""
    found = {}
    for graph in (spec["root"], *spec["components"].values()):
        for name, task in graph.get("dag", {}).get("tasks", {}).items():
            if "executorLabel" in spec["components"][task["componentRef"]["name"]]:
                found[name] = task
    return found


def write_tables(folder: Path, num_days: int) -> tuple[str, str]:
    """Interactions of users who each come on one day."""
    folder.mkdir(exist_ok=True)
    interactions, items = folder / "interactions.csv", folder / "items.csv"
    rows = []
    for user in range(2 * num_days):
        for step in range(8):
            time = START + user // 2 * DAY + 60 * step
            rows.append(f"u{user},i{(user + step * (1 + user % 3)) % 30},{time}\n")
    interactions.write_text("user_id,item_id,timestamp\n" + "".join(rows), encoding="utf-8")
    titles = "".join(f"i{item},Film {item}\n" for item in range(30))
    items.write_text(f"item_id,title\n{titles}", encoding="utf-8")
    return str(interactions), str(items)


def form(folder: Path, num_days: int, **more: Any) -> dict[str, Any]:
    interactions, items = write_tables(folder, num_days)
    return {
        "data_source": "table",
        "data_interactions": interactions,
        "data_items": items,
        "retrain_store": str(folder / "store"),
        "retrain_until": "2024-02-05",
        "retrain_window_days": 10,
        "sft_max_steps": 2,
        "sft_settings": {"batch_size": 8},
        "preference_settings": STEPS,
        "preference_num_negatives": 5,
        "evaluation_settings": {"resamples": 100, "sasrec": False},
        "drift_settings": {"min_users": 5},
        "gate_settings": {"resamples": 100, "min_users": 2, "margin": 5.0},
        **more,
    }


def records_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in run.glob("*/*/record/record.json")]


@pytest.mark.pipeline
def test_a_recurring_run_promotes_then_rests_then_compares_with_the_champion(
    file: Path, tmp_path: Path
):
    """The first run has no champion, the second no new window, the third a challenger."""
    backend = Backend(tmp_path / "root")
    first = backend.start(file, **form(tmp_path, 35))
    (record,) = records_of(first)
    promoted = record["retraining"]
    store = str(tmp_path / "store")
    assert promoted["promoted"] and promoted["champion"] == ""
    assert promoted["version"] == read_moves(store)[-1].version
    assert record["models"].keys() == {"sft", "dynamicpo-dmpo"} and record["report"]
    assert promoted["hours"] > 0

    second = backend.start(file, **form(tmp_path, 35))
    assert (backend.cached, backend.ran) == (["check-settings"], ["plan-retraining"])
    assert records_of(second) == []
    assert "this window was answered already (promoted)" in read_retrainings(store)[-1].why

    # Under the same address there is more data now.
    later = form(tmp_path, 50, retrain_until="2024-02-20", retrain_forced=True)
    third = backend.start(file, **later)
    assert {"prepare-data", "fine-tune", *ANEW} <= {*backend.ran}
    (record,) = records_of(third)
    assert record["retraining"]["champion"] == promoted["version"]
    (gate,) = third.glob("challenge-champion/*/gate")
    decision = read_manifest(gate, "judge_challenger").extra["decision"]
    assert [*decision["differences"]] == [promoted["version"]]
    # It went on from the champion's own model.
    warm = read_manifest(Path(record["models"]["sft"]))
    assert warm.inputs["start"] == read_manifest(Path(store, _model(promoted))).fingerprint
    kinds = [entry.kind for entry in read_retrainings(store)]
    assert kinds[:3] == ["started", "promoted", "not started"] and len(kinds) == 5


def _model(outcome: dict[str, Any]) -> str:
    return f"versions/{outcome['version']}/model"


def test_what_reads_the_store_is_never_cached(spec: dict[str, Any]):
    anew = {name for name, task in tasks_of(spec).items() if not task["cachingOptions"]}
    assert anew == ANEW


def test_a_run_has_one_scorecard_and_one_record(spec: dict[str, Any]):
    made = {
        (component, output)
        for component, item in spec["components"].items()
        for output in item.get("outputDefinitions", {}).get("artifacts", {})
        if "executorLabel" in item
    }
    for output in ("scorecard", "record"):
        found = [component for component, name in made if name == output]
        assert found == ["comp-compare-evaluations"]


def test_nothing_is_prepared_or_trained_without_a_decision(spec: dict[str, Any]):
    outer = spec["root"]["dag"]["tasks"]
    assert {*outer} == {"check-settings", "plan-retraining", "condition-1"}
    plan = outer["condition-1"]["triggerPolicy"]["condition"]
    assert plan == "inputs.parameter_values['pipelinechannel--plan-retraining-starts'] == true"
    window = spec["components"]["comp-condition-1"]["dag"]["tasks"]
    assert {*window} == {"prepare-data", "sample-negatives", "check-window", "condition-2"}
    drift = window["condition-2"]["triggerPolicy"]["condition"]
    assert "check-window-trains" in drift and drift.endswith("== true")


def test_the_data_are_known_by_their_content(spec: dict[str, Any]):
    prepared = spec["components"]["comp-condition-1"]["dag"]["tasks"]["prepare-data"]
    source = prepared["inputs"]["parameters"]["fingerprint"]["componentInputParameter"]
    assert source == "pipelinechannel--plan-retraining-fingerprint"
