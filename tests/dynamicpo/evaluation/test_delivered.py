"""Which weights each model has of its training: tables say it, and warn of different rules."""

import json
from pathlib import Path
from typing import Any

import pytest

from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.evaluation.comparison import compare_evaluations
from dynamicpo.evaluation.delivered import BEST, LAST, delivered_rule
from dynamicpo.evaluation.evaluate import evaluate
from tests.fixtures.folders import write_model, write_preferences

CONFIG = EvaluationConfig(sasrec=False, resamples=100)
# Of an earlier version, which had no such setting, and of today.
TRAININGS: dict[str, tuple[str, dict[str, object]]] = {
    "sft": ("sft", {"patience": 3}),
    "dmpo": ("preference_training", {}),
    "simpo": ("preference_training", {"deliver": "last"}),
    "dynamicpo": ("preference_training", {"deliver": "best"}),
}
WARNING = (
    "The weights of dynamicpo are the best of their training by validation, those of dmpo the "
    "last: some of the difference may be the rule's. Train all with the same `deliver`."
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("delivered")
    write_preferences(folder / "preferences")
    for seed, (name, (stage, settings)) in enumerate(TRAININGS.items()):
        model = write_model(folder / name, seed=seed, stage=stage, settings=settings)
        evaluate(folder / "preferences", {name: model}, folder / f"evaluation-{name}", CONFIG)
    return folder


def compare(root: Path, output: Path, *names: str) -> Manifest:
    return compare_evaluations([root / f"evaluation-{name}" for name in names], output)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("stage", "config", "rule"),
    [
        ("sft", {"patience": 0}, LAST),
        ("sft", {"patience": 2}, BEST),
        ("preference_training", {}, LAST),
        ("preference_training", {"deliver": "last"}, LAST),
        ("preference_training", {"deliver": "best"}, BEST),
    ],
)
def test_the_rule_stands_in_the_configuration(
    stage: str, config: dict[str, object], rule: str
) -> None:
    assert delivered_rule({"stage": stage, "config": config}) == rule


def test_a_comparison_says_the_rules_and_warns_where_trainings_differ(
    root: Path, tmp_path: Path
) -> None:
    manifest = compare(root, tmp_path / "out", "sft", "dmpo", "dynamicpo")
    assert manifest.extra["warnings"] == [WARNING]
    rules = "Weights of each training: best by validation (sft, dynamicpo), last (dmpo)."
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert table.startswith(f"**{WARNING}**") and table.endswith(f"\n\n{rules}\n")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert rules in page and "those of dmpo the last" in page
    differences = read(tmp_path / "out" / "comparison.json")["differences"]
    assert differences["deliver"] == {"sft": BEST, "dmpo": LAST, "dynamicpo": BEST}


def test_models_of_one_rule_are_not_said_to_differ(root: Path, tmp_path: Path) -> None:
    """SFT's may be another one, and an earlier version's manifest does not name it."""
    manifest = compare(root, tmp_path / "out", "sft", "dmpo", "simpo")
    assert manifest.extra["warnings"] == []
    compare(root, tmp_path / "trained", "dmpo", "simpo")
    assert "deliver" not in read(tmp_path / "trained" / "comparison.json")["differences"]


def test_an_evaluation_of_several_models_says_it_too(root: Path, tmp_path: Path) -> None:
    models = {name: root / name for name in ("sft", "dmpo", "dynamicpo")}
    manifest = evaluate(root / "preferences", models, tmp_path / "together", CONFIG)
    assert manifest.extra["warnings"] == [WARNING]
    assert manifest.extra["weights"] == {"sft": BEST, "dmpo": LAST, "dynamicpo": BEST}
    page = (tmp_path / "together" / "report.html").read_text(encoding="utf-8")
    assert "Weights of each training: best by validation (sft, dynamicpo), last (dmpo)." in page
    compared = compare_evaluations([tmp_path / "together"], tmp_path / "out")
    assert compared.extra["warnings"] == [WARNING]
