"""The training pipeline: what it compiles to, and that it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamicpo.cli.main import main
from dynamicpo.core.config import DataConfig
from dynamicpo.core.config_fields import choices_of
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.runs.compile import load_pipeline
from dynamicpo.runs.parameters import check_parameters
from dynamicpo.runs.signatures import pipeline_names, pipeline_signature, pipelines_folder
from dynamicpo_components.image import IMAGE
from tests.fixtures.tables import write_tables

PRESETS = {
    "training": sorted(pipelines_folder().glob("training/presets/*.yaml")),
    "negative_scaling": sorted(pipelines_folder().glob("negative_scaling/studies/*.yaml")),
    "retraining": sorted(pipelines_folder().glob("retraining/presets/*.yaml")),
}
# Groups of tasks at the root; they have no pod of their own to be tried again.
GROUPS = {"training": "for-loop-1", "negative_scaling": "for-loop-1", "retraining": "condition-1"}
DIGEST = "python@sha256:" + 64 * "a"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("compiled") / "training.yaml"
    assert main(["compile", "training", "--image", DIGEST, "-o", str(path)]) == 0
    text = path.read_text()
    assert IMAGE not in text
    return dict(next(yaml.safe_load_all(text)))


@pytest.mark.parametrize("name", pipeline_names())
def test_compiles_to_the_same_bytes_in_every_process(name: str, tmp_path: Path):
    texts = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.yaml"
        command = [
            sys.executable,
            "-c",
            "from dynamicpo.cli.main import main; raise SystemExit(main())",
        ]
        command += ["compile", name, "--image", DIGEST, "-o", str(path)]
        subprocess.run(
            command, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=tmp_path
        )
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]
    assert next(yaml.safe_load_all(texts[0]))["pipelineInfo"]["name"] == name.replace("_", "-")


def test_every_task_runs_in_the_given_image(compiled: dict[str, Any]):
    images = {
        executor["container"]["image"]
        for executor in compiled["deploymentSpec"]["executors"].values()
    }
    assert images == {DIGEST}


def test_parameters_and_their_defaults_are_in_the_file(compiled: dict[str, Any]):
    given = compiled["root"]["inputDefinitions"]["parameters"]
    defaults = pipeline_signature("training")
    assert {name: item["defaultValue"] for name, item in given.items()} == defaults


@pytest.mark.parametrize("name", pipeline_names())
def test_the_description_is_in_the_file(name: str, tmp_path: Path):
    description = compiled_spec(name, tmp_path / "pipeline.yaml")["pipelineInfo"]["description"]
    assert description == load_pipeline(name).description
    default = pipeline_signature(name)["sft_rows"]
    assert f"\n| `sft_rows` | whole number | rows | >= 0 | `{default}` |" in description


@pytest.mark.parametrize("name", pipeline_names())
def test_menus_are_in_the_file_unless_they_are_left_out(name: str, tmp_path: Path):
    def literals(*flags: str) -> dict[str, list[str]]:
        spec = compiled_spec(name, tmp_path / "pipeline.yaml", *flags)
        given = spec["root"]["inputDefinitions"]["parameters"]
        return {key: item["literals"] for key, item in given.items() if "literals" in item}

    menus = literals()
    assert menus["data_source"] == [*choices_of(DataConfig.__dataclass_fields__["source"])]
    assert menus["sft_loss_on"] == ["answer", "history"]
    assert all(pipeline_signature(name)[key] in values for key, values in menus.items())
    for preset in PRESETS[name]:
        values = yaml.safe_load(preset.read_text(encoding="utf-8"))
        for key in menus.keys() & values.keys():
            assert values[key] in menus[key], preset
    assert literals("--no-menus") == {}


def feeds(task: dict[str, Any], name: str) -> str:
    """The task that an input artifact comes from."""
    return str(task["inputs"]["artifacts"][name]["taskOutputArtifact"]["producerTask"])


def test_artifacts_go_where_they_belong(compiled: dict[str, Any]):
    tasks = compiled["root"]["dag"]["tasks"]
    assert feeds(tasks["sample-negatives"], "examples") == "prepare-data"
    assert feeds(tasks["fine-tune"], "preferences") == "sample-negatives"
    assert feeds(tasks["evaluate"], "model") == "fine-tune"
    assert feeds(tasks["evaluate"], "baselines") == "evaluate-baselines"
    # So that both are trained at once.
    assert "fine-tune" not in tasks["evaluate-baselines"]["dependentTasks"]
    assert feeds(tasks["monitor-drift"], "current") == "sample-negatives"
    assert feeds(tasks["compare-evaluations"], "baselines") == "evaluate"
    assert feeds(tasks["compare-evaluations"], "evaluations") == "for-loop-1"
    loop = compiled["components"]["comp-for-loop-1"]["dag"]["tasks"]
    assert set(loop) == {"train-preferences", "evaluate-2"}
    assert feeds(loop["evaluate-2"], "model") == "train-preferences"
    adapter = loop["train-preferences"]["inputs"]["artifacts"]["adapter"]["componentInputArtifact"]
    assert adapter == "pipelinechannel--fine-tune-model"


def source_of(task: dict[str, Any], name: str) -> tuple[str, str]:
    """The task and the output that an input parameter comes from."""
    given = task["inputs"]["parameters"][name]
    # In a loop the value comes from the loop's own input, whose name holds both.
    if "componentInputParameter" in given:
        channel = given["componentInputParameter"].removeprefix("pipelinechannel--")
        return "check-settings", channel.removeprefix("check-settings-")
    output = given["taskOutputParameter"]
    return output["producerTask"], output["outputParameterKey"]


def test_every_parameter_is_checked_and_its_stage_takes_the_result(compiled: dict[str, Any]):
    """No parameter is left out or crossed over, and no stage starts before the check."""
    outer = compiled["root"]["dag"]["tasks"]
    inner = compiled["components"]["comp-for-loop-1"]["dag"]["tasks"]
    given = outer["check-settings"]["inputs"]["parameters"]
    checked = {key: value.get("componentInputParameter") for key, value in given.items()}
    assert checked.pop("pipeline") is None
    assert checked == {key: key for key in pipeline_signature("training")}
    stages = {
        "data": outer["prepare-data"],
        "negatives": outer["sample-negatives"],
        "sft": outer["fine-tune"],
        "evaluation": outer["evaluate"],
        "drift": outer["monitor-drift"],
        "preference": inner["train-preferences"],
    }
    for stage, task in stages.items():
        assert source_of(task, "settings") == ("check-settings", stage)
    for task in (outer["evaluate-baselines"], inner["evaluate-2"]):
        assert source_of(task, "settings") == ("check-settings", "evaluation")
    loop = outer["for-loop-1"]["parameterIterator"]["items"]["inputParameter"]
    assert loop == "pipelinechannel--check-settings-objectives"


def test_baselines_are_evaluated_once(compiled: dict[str, Any]):
    inner = compiled["components"]["comp-for-loop-1"]["dag"]["tasks"]["evaluate-2"]
    for name in ("base", "sasrec"):
        assert inner["inputs"]["parameters"][name]["runtimeValue"]["constant"] is False


@pytest.mark.parametrize("name", pipeline_names())
def test_the_check_is_not_tried_again(name: str, tmp_path: Path):
    tasks = compiled_spec(name, tmp_path / "pipeline.yaml")["root"]["dag"]["tasks"]
    assert [key for key, task in tasks.items() if "retryPolicy" not in task] == [
        "check-settings",
        GROUPS[name],
    ]


def test_objectives_set_loss_and_dynamic(compiled: dict[str, Any]):
    inputs = compiled["components"]["comp-for-loop-1"]["dag"]["tasks"]["train-preferences"][
        "inputs"
    ]["parameters"]
    for name in ("loss", "dynamic"):
        assert inputs[name]["parameterExpressionSelector"] == f'parseJson(string_value)["{name}"]'


@pytest.mark.parametrize("path", PRESETS["training"], ids=lambda path: path.stem)
def test_shipped_parameters_are_valid(path: Path):
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(given) <= set(check_parameters("training", given))
    # At least the plain objective and the one with DynamicPO, which are to be compared.
    assert {entry["dynamic"] for entry in given["objectives"]} >= {"none", "full"}


TINY = {
    "data_source": "table",
    "data_k_core": "5",
    "objectives": "dmpo,dynamicpo-dmpo",
    "negatives_num_candidates": "6",
    "sft_max_steps": "4",
    "sft_batch_size": "8",
    "preference_num_negatives": "3",
    "preference_max_steps": "4",
    "preference_batch_size": "8",
    "evaluation_resamples": "100",
}


def run(
    folder: Path, capfd: pytest.CaptureFixture[str], *arguments: str, **more: str
) -> tuple[int, str, str]:
    given = [
        word for name, value in {**TINY, **more}.items() for word in ("--param", f"{name}={value}")
    ]
    code = main(["run", "training", "--output", str(folder), *given, *arguments])
    return code, *capfd.readouterr()


@pytest.mark.pipeline
def test_the_whole_chain_and_what_a_second_run_uses_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    interactions, items = write_tables(tmp_path)
    data = {"data_interactions": interactions, "data_items": items}
    code, out, err = run(tmp_path / "first", capfd, "--workers", "2", **data)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[-1] == str(tmp_path / "first" / "report.html")
    names = ["random", "popularity", "cooccurrence", "sasrec", "sft", "dmpo", "dynamicpo-dmpo"]
    assert [line.split()[0] for line in lines[2 : 2 + len(names)]] == names
    assert any(line.split()[:3] == ["dynamicpo-dmpo", "popularity", "HitRatio@1"] for line in lines)
    first = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert first["state"] == "succeeded"
    assert set(first["metrics"]) == set(names)
    assert {task["state"] for task in first["tasks"]} == {"succeeded"}
    assert not any(task["cached"] for task in first["tasks"])
    assert "evaluate dmpo: started" in err
    check_report(tmp_path / "first", names)

    code, out, err = run(tmp_path / "second", capfd, "--json", drift_threshold="0.2", **data)
    assert code == 0, err
    second = json.loads(out)
    done = {task["task"] for task in second["tasks"] if not task["cached"]}
    assert done == {"check-settings", "monitor-drift"}
    assert second["metrics"] == first["metrics"]
    check_report(tmp_path / "second", names)
    for folder in (tmp_path / "first", tmp_path / "second"):
        check_record(folder, first["metrics"])


def check_record(folder: Path, metrics: dict[str, Any]) -> None:
    """Check that kfp hands the URIs of a loop on in the order of its evaluations."""
    task = folder / "artifacts" / "compare-evaluations"
    record = json.loads((task / "record" / "record.json").read_text())
    assert record["metrics"] == metrics
    assert [*record["models"]] == ["dmpo", "dynamicpo-dmpo", "sft"]
    for name, uri in record["models"].items():
        evaluation = read_manifest(Path(record["evaluations"][name]), "evaluate")
        made = read_manifest(Path(uri)).fingerprint
        assert evaluation.extra["models"][name]["fingerprint"] == made
        page = Path(record["reports"]["training"][name]).read_text(encoding="utf-8")
        assert page == (Path(uri) / "report.html").read_text(encoding="utf-8")
        assert name in Path(record["reports"]["evaluation"][name]).read_text(encoding="utf-8")
    assert read_manifest(Path(record["rows"]), "sample_negatives")
    scorecard = json.loads((task / "scorecard").read_text())
    ratio = metrics["dynamicpo-dmpo"]["test_hit_ratio_at_1"]
    assert scorecard["dynamicpo_dmpo_hit_ratio_at_1"] == round(ratio, 3)
    assert {"sasrec_hit_ratio_at_1", "dmpo_minus_sft", "dmpo_minus_sft_low"} <= set(scorecard)


def check_report(folder: Path, names: list[str]) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in names)
    assert 'src="http' not in page and 'href="http' not in page
    # The costs of this run stand in its own page, not in the report, which is the same every time.
    costs = page[page.index("<h2>What it costs</h2>") :]
    assert all(f"<td>{name}</td>" in costs for name in names)
    report = folder / "artifacts" / "compare-evaluations" / "report"
    assert "What it costs" not in report.read_text(encoding="utf-8")
    model = folder / "artifacts" / "train-preferences-dynamicpo-dmpo" / "model"
    assert (model / "manifest.json").is_file() and (model / "steps.jsonl").is_file()


def tasks_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Every task of a pipeline, those in loops and the loops themselves too."""
    dags = [spec["root"], *spec["components"].values()]
    return [task for dag in dags for task in dag.get("dag", {}).get("tasks", {}).values()]


def compiled_spec(name: str, path: Path, *flags: str) -> dict[str, Any]:
    assert main(["compile", name, "--image", DIGEST, "-o", str(path), *flags]) == 0
    return dict(next(yaml.safe_load_all(path.read_text())))


@pytest.mark.parametrize("name", pipeline_names())
def test_no_task_takes_an_artifact_twice(name: str, tmp_path: Path):
    """KFP's metadata store keeps one event per artifact and task: the second one fails the task."""
    for task in tasks_of(compiled_spec(name, tmp_path / "pipeline.yaml")):
        given = task.get("inputs", {}).get("artifacts", {})
        sources = [json.dumps(source, sort_keys=True) for source in given.values()]
        assert sorted(set(sources)) == sorted(sources), task["taskInfo"]["name"]


@pytest.mark.parametrize(
    ("name", "loop"), [("training", "each objective"), ("negative_scaling", "each cell")]
)
def test_the_stages_stand_at_the_root_of_the_graph(name: str, loop: str, tmp_path: Path):
    spec = compiled_spec(name, tmp_path / "pipeline.yaml")
    tasks = spec["root"]["dag"]["tasks"]
    names = {task["taskInfo"]["name"] for task in tasks.values()}
    assert {"prepare-data", "sample-negatives", "fine-tune", "evaluate sft", loop} <= names
    groups = [task["taskInfo"]["name"] for task in tasks_of(spec) if "dag" in component(spec, task)]
    assert groups == [loop]


def component(spec: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    return dict(spec["components"][task["componentRef"]["name"]])


@pytest.mark.parametrize("name", pipeline_names())
def test_every_task_of_every_pipeline_is_placed(name: str, tmp_path: Path):
    """The fields of a placement are tested in test_placement.py; here, that all tasks have one."""
    path = tmp_path / "pipeline.yaml"
    places = [
        "gpu_count=2",
        "queue=gpu",
        "data_claim=rows",
        "cache_claim=models",
        "checkpoint_prefix=/data/c",
    ]
    words = [word for place in places for word in ("--place", place)]
    assert main(["compile", name, "--image", DIGEST, *words, "-o", str(path)]) == 0
    spec, platform = yaml.safe_load_all(path.read_text())
    containers = {
        task: item["container"] for task, item in spec["deploymentSpec"]["executors"].items()
    }
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(placed) == set(containers)
    gpus = {task for task, item in containers.items() if "accelerator" in item["resources"]}
    for task, found in placed.items():
        amounts = {key for key in containers[task]["resources"] if key.startswith("resource")}
        assert amounts == {
            f"resource{kind}{end}" for kind in ("Cpu", "Memory") for end in ("Request", "Limit")
        }
        assert (
            int(found["activeDeadlineSeconds"]) > 0
            and found["securityContext"]["runAsNonRoot"] is True
        )
        mounts = {item["mountPath"] for item in [*found["emptyDirMounts"], *found["pvcMount"]]}
        # Data preparation counts titles in tokens of the backbone.
        reads_bases = task in gpus or task == "exec-prepare-data"
        expected = {"/tmp", "/data"}
        expected |= {"/dev/shm"} if task in gpus else set()
        expected |= {"/cache"} if reads_bases else set()
        assert mounts == expected
        assert ("nodeSelector" in found, "tolerations" in found) == 2 * (task in gpus,)
        assert ("secretAsEnv" in found) == reads_bases
        assert ("nodeAffinity" in found) == (task not in gpus)
        prefixes = [
            item["value"]
            for item in containers[task].get("env", [])
            if item["name"].endswith("_PREFIX")
        ]
        assert prefixes == (["/data/c"] if task in gpus else [])
    runs = [task for task in tasks_of(spec) if "executorLabel" in component(spec, task)]
    assert len(runs) >= len(containers)
    for task in runs:
        retries = task.get("retryPolicy", {}).get("maxRetryCount")
        is_check = task["taskInfo"]["name"] == "check-settings"
        assert retries == (None if is_check else 3)


def test_only_tasks_with_models_take_gpus(tmp_path: Path):
    path = tmp_path / "training.yaml"
    assert main(["compile", "training", "--image", DIGEST, "-o", str(path)]) == 0
    spec = next(yaml.safe_load_all(path.read_text()))
    found = spec["deploymentSpec"]["executors"].items()
    gpus = {name for name, item in found if "accelerator" in item["container"]["resources"]}
    evaluations = {"exec-evaluate-baselines", "exec-evaluate", "exec-evaluate-2"}
    assert gpus == {"exec-fine-tune", "exec-train-preferences", *evaluations}


def test_a_placement_that_can_not_be_used_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "training.yaml"
    for given, said in (
        ("gpu_cont=2", "Did you mean 'gpu_count'?"),
        ("gpu_memory=lots", "gpu_memory: must be"),
    ):
        assert (
            main(["compile", "training", "--image", DIGEST, "--place", given, "-o", str(path)]) == 2
        )
        assert said in capsys.readouterr().err
    assert not path.exists()
