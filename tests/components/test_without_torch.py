"""Stages that need no torch import none: each runs in a process that has no torch to import.

An import that a library would forgo counts too: where torch is there, it would take its seconds.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynamicpo_components import readme
from tests.components.conftest import Call
from tests.conftest import ROOT
from tests.fixtures.tables import write_tables

NEED_TORCH = {
    *("sft", "preference_training", "baselines", "evaluation"),
    *("window_check", "challenge"),
}
Given = dict[str, Any]

HIDE = """
import json, sys
from importlib.abc import MetaPathFinder

asked = []

class NoTorch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            asked.append(name)
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, NoTorch())
sys.argv.pop(0)
"""
RUN = """
from pathlib import Path
from kfp import dsl
from tests.components.conftest import call_component

def artifact(value):
    if isinstance(value, list):
        return [artifact(item) for item in value]
    made = isinstance(value, dict) and "uri" in value
    return dsl.Artifact(name="given", uri=value["uri"]) if made else value

stage, folder, given = sys.argv
arguments = {name: artifact(value) for name, value in json.loads(given).items()}
call_component(stage, Path(folder), arguments)
print(json.dumps(asked))
"""


def run_without_torch(stage: str, folder: Path, given: Given) -> list[str]:
    """Run a stage's component. Returns the modules of torch that something asked for."""
    command = [sys.executable, "-c", HIDE + RUN, stage, str(folder), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    asked = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(asked, list)
    return asked


@pytest.fixture(scope="session")
def cells(call: Call, sampled: SimpleNamespace, tuned: SimpleNamespace) -> list[SimpleNamespace]:
    """Evaluations of two cells of the collapse study."""
    made = []
    for name, loss, number in (("dpo-k1-s0", "dpo", 1), ("dmpo-k3-s0", "dmpo", 3)):
        trained = call(
            "preference_training",
            preferences=sampled.preferences,
            adapter=tuned.model,
            name=name,
            loss=loss,
            dynamic="none",
            num_negatives=number,
            settings={"max_steps": 1, "batch_size": 8},
        )
        given = {"preferences": sampled.preferences, "model": trained.model, "name": name}
        made.append(call("evaluation", **given, settings={"resamples": 100}))
    return made


@pytest.fixture
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Given]:
    """What each stage gets."""

    def made(name: str) -> Any:
        return request.getfixturevalue(name)

    def uri(artifact: Any) -> dict[str, str]:
        return {"uri": artifact.uri}

    def tables() -> Given:
        interactions, items = write_tables(tmp_path)
        return {"interactions": interactions, "items": items}

    def judged() -> Given:
        evaluations = [uri(found.evaluation) for found in made("cells")]
        names = ("rows_uri", "sft_uri", "sft_report_uri", "baselines_report_uri")
        lists = ("model_uris", "training_report_uris", "evaluation_report_uris")
        more: Given = {**dict.fromkeys(names, "x"), **dict.fromkeys(lists, ["x", "y"])}
        return {"baselines": uri(made("evaluated").evaluation), "evaluations": evaluations, **more}

    stages: dict[str, Callable[[], Given]] = {
        "cell_plan": lambda: {"num_negatives": "1,3"},
        "settings_check": lambda: {"pipeline": "training", "sft_epochs": 1.0},
        "data_prep": tables,
        "negative_sampling": lambda: {"examples": uri(made("prepared").examples)},
        "drift_monitoring": lambda: {"current": uri(made("sampled").preferences)},
        "comparison": judged,
        "study": judged,
        "retraining_plan": lambda: {"settings": {"store": str(tmp_path / "store")}},
    }
    return lambda stage: stages[stage]()


@pytest.mark.parametrize("stage", sorted({*readme.stages()} - NEED_TORCH))
def test_a_stage_runs_where_there_is_no_torch(
    stage: str, given: Callable[[str], Given], tmp_path: Path
):
    assert run_without_torch(stage, tmp_path, given(stage)) == []


def test_torch_is_hidden():
    hidden = [sys.executable, "-c", HIDE + "import torch.nn"]
    done = subprocess.run(hidden, capture_output=True, text=True, check=False)
    assert "no torch here" in done.stderr
