"""The collapse study as a stage: real cells in, a page and a verdict out, or a refusal."""

import json
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dynamicpo.cli.main import main
from dynamicpo.core.config import EvaluationConfig, GridConfig, PreferenceConfig, StudyConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.study.grid import plan_cells
from dynamicpo.study.judge import judge_collapse
from dynamicpo.study.kinds import VARIANT_NAMES
from dynamicpo.training.preference_training import train_preferences
from tests.fixtures.folders import write_model, write_preferences

GRID = GridConfig(num_negatives="1,3", objectives="dmpo,sdpo", seeds="0,1")
SHORT = {"max_steps": 3, "batch_size": 8}
EVALUATION = EvaluationConfig(sasrec=False, resamples=100)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cells of a small grid, trained from one SFT model and evaluated one by one."""
    folder = tmp_path_factory.mktemp("study")
    preferences, sft = write_preferences(folder / "preferences"), write_model(folder / "sft")
    evaluate(preferences, {"sft": sft}, folder / "baselines", EVALUATION)
    for cell in plan_cells(GRID):
        train(folder, **cell)
    return folder


def train(folder: Path, cell: str, sft: str = "sft", **settings: Any) -> Path:
    model = folder / "models" / cell
    train_preferences(
        folder / "preferences", folder / sft, model, PreferenceConfig(**{**SHORT, **settings})
    )
    evaluate(folder / "preferences", {cell: model}, folder / "cells" / cell, EVALUATION)
    return folder / "cells" / cell


def evaluations(root: Path) -> list[Path]:
    return sorted((root / "cells").iterdir())


def judge(root: Path, output: Path, *more: Path, leave_out: str = "-") -> Manifest:
    cells = [path for path in evaluations(root) if leave_out not in path.name or leave_out == "-"]
    return judge_collapse(root / "baselines", [*cells, *more], output, StudyConfig())


def test_every_kind_of_cell_is_measured(root: Path, tmp_path: Path) -> None:
    manifest = judge(root, tmp_path / "out")
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    kinds = {(cell["loss"], cell["variant"], cell["num_negatives"]) for cell in study["cells"]}
    expected = {(loss, variant, 3) for loss in ("dmpo", "sdpo") for variant in ("none", "full")}
    assert kinds == {*expected, ("dpo", "none", 1), ("dpo", "full", 1), ("sft", "none", 0)}
    assert study["seeds"] == [0, 1]
    for cell in study["cells"]:
        if cell["loss"] != "sft":
            check_cell(root, cell)
    assert manifest.counts["looks"] == len(study["comparisons"]) == 4 + 3 + 1
    assert {
        "collapsed",
        "prevented",
        "sft_hit_ratio_at_1",
        "dmpo_plain_k3_final_loss",
    } <= manifest.counts.keys()


def check_cell(root: Path, cell: dict[str, Any]) -> None:
    """Its numbers are those of the evaluation and of the training log."""
    front = "" if cell["variant"] == "none" else f"{VARIANT_NAMES[cell['variant']]}-"
    for seed in (0, 1):
        name = f"{front}{cell['loss']}-k{cell['num_negatives']}-s{seed}"
        metrics = json.loads((root / "cells" / name / name / "metrics.json").read_text())
        assert cell["hit_ratio_at_1"][seed] == pytest.approx(metrics["test_hit_ratio_at_1"])
        counts = json.loads((root / "models" / name / "manifest.json").read_text())["counts"]
        for measure in (
            "loss",
            "boundary_gradient",
            "boundary_gradient_relative",
            "boundary_fraction",
        ):
            figure = cell["final_loss" if measure == "loss" else measure][seed]
            assert figure == pytest.approx(counts[f"final_{measure}"])
        steps = (root / "models" / name / "steps.jsonl").read_text().splitlines()
        assert cell["loss_share"][seed] == pytest.approx(
            cell["final_loss"][seed] / json.loads(steps[0])["loss"]
        )


def test_the_page_shows_every_measure_for_every_objective(root: Path, tmp_path: Path) -> None:
    judge(root, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for text in (
        "DMPO against the number of negatives",
        "S-DPO against the number of negatives",
        "Every comparison",
    ):
        assert f"<h2>{text}</h2>" in page
    for chart in (
        "HitRatio@1",
        "Final training loss",
        "Boundary gradient left at the end",
        "Boundary items",
    ):
        assert page.count(f'aria-label="{chart}"') == 2
    assert "corrected by Holm for all 8 comparisons" in page
    verdict = (tmp_path / "out" / "verdict.md").read_text(encoding="utf-8")
    assert verdict.startswith("DMPO did not collapse") and "| objective |" in verdict


def test_the_figure_stands_alone(root: Path, tmp_path: Path) -> None:
    judge(root, tmp_path / "out")
    text = (tmp_path / "out" / "figure.svg").read_text(encoding="utf-8")
    labels = [
        part.attrib["aria-label"]
        for part in ElementTree.fromstring(text)
        if "aria-label" in part.attrib
    ]
    measures = ("HitRatio@1", "Final training loss", "Boundary gradient left at the end")
    assert labels == [
        f"{objective}: {measure}" for measure in measures for objective in ("DMPO", "S-DPO")
    ]
    assert len(text) < 200_000
    assert not [
        word for word in re.findall(r'(?:href|src)="([^"]*)"', text) if not word.startswith("#")
    ]


def test_the_same_gives_the_same_bytes_and_is_used_again(root: Path, tmp_path: Path) -> None:
    first = judge(root, tmp_path / "first")
    judge_collapse(root / "baselines", evaluations(root)[::-1], tmp_path / "second", StudyConfig())
    for name in ("study.json", "verdict.md", "figure.svg", "report.html", "manifest.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert judge(root, tmp_path / "first") == first


def test_as_a_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [str(path) for path in evaluations(root)]
    argv = ["judge-collapse", "--baselines", str(root / "baselines"), "--evaluation", *cells]
    assert main([*argv, "--output", str(tmp_path / "out"), "--min-drop", "0.1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert (
        out[0]
        == "DMPO did not collapse with more negatives; S-DPO did not collapse with more negatives."
    )
    assert out[-1] == str(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["config"] == {
        "min_drop": 0.1,
        "level": 0.05,
    }


def test_one_seed_is_a_warning(root: Path, tmp_path: Path) -> None:
    cells = [path for path in evaluations(root) if path.name.endswith("-s0")]
    judge_collapse(root / "baselines", cells, tmp_path / "out", StudyConfig())
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "One seed only: intervals and p know nothing of how training varies." in page


def test_what_can_not_be_judged_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="study: needs at least one cell, got none"):
        judge_collapse(root / "baselines", [], tmp_path / "out", StudyConfig())
    with pytest.raises(
        DataError, match=r"must have the same seeds, .* has \[0, 1\] and .* has \[[01]\]"
    ):
        judge(root, tmp_path / "out", leave_out="sdpo-k3-s1")
    with pytest.raises(
        DataError, match="must be a model of preference training with its steps.jsonl"
    ):
        judge(root, tmp_path / "out", root / "baselines")
    write_model(root / "other-sft", seed=9)
    evaluate(root / "preferences", {"sft": root / "other-sft"}, tmp_path / "other", EVALUATION)
    with pytest.raises(
        DataError, match="must hold the SFT model that all cells started from, but has sft"
    ):
        judge_collapse(tmp_path / "other", evaluations(root), tmp_path / "out", StudyConfig())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.pop("stage"),
        lambda model: model["config"].pop("dynamic"),
        lambda model: model["config"].update(loss="other"),
        lambda model: model["config"].update(seed="0"),
        lambda model: model["inputs"].pop("adapter"),
        lambda model: model.pop("backbone"),
    ],
)
def test_damaged_origin_of_a_cell_is_refused(
    root: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    cell = shutil.copytree(evaluations(root)[0], tmp_path / evaluations(root)[0].name)
    content = json.loads((cell / "manifest.json").read_text())
    change(content["extra"]["models"][cell.name])
    (cell / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="must be (as a stage wrote it|a model of preference)"):
        judge_collapse(root / "baselines", [cell], tmp_path / "out", StudyConfig())


@pytest.mark.parametrize("deliver", [None, "best"])
def test_cells_have_the_last_weights_as_those_of_earlier_versions_do(
    root: Path, tmp_path: Path, deliver: str | None
) -> None:
    first, *others = evaluations(root)
    cell = shutil.copytree(first, tmp_path / first.name)
    content = json.loads((cell / "manifest.json").read_text())
    config = content["extra"]["models"][cell.name]["config"]
    if deliver is None:
        del config["deliver"]
    else:
        config["deliver"] = deliver
    (cell / "manifest.json").write_text(json.dumps(content))
    refusal = pytest.raises(DataError, match="must have the last weights of its training")
    with nullcontext() if deliver is None else refusal:
        judge_collapse(root / "baselines", [cell, *others], tmp_path / "out", StudyConfig())


def test_cells_of_other_settings_or_of_another_start_are_refused(
    root: Path, tmp_path: Path
) -> None:
    for name in ("preferences", "sft"):
        (tmp_path / name).symlink_to(root / name)
    other = train(tmp_path, "odd", num_negatives=2, margin=2.0)
    with pytest.raises(
        DataError, match=r"cells must be alike in all that is not studied, but differ in margin \("
    ):
        judge(root, tmp_path / "out", other)
    write_model(tmp_path / "second-sft", seed=5)
    other = train(tmp_path, "stranger", sft="second-sft", num_negatives=2)
    with pytest.raises(DataError, match=r"differ in adapter \("):
        judge(root, tmp_path / "out", other)
