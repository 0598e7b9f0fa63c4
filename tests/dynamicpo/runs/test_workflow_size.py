"""Size of a run's workflow: agrees with what was measured, and stops what Argo would not take."""

import gzip
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamicpo.cli.main import main
from dynamicpo.core.errors import ConfigError
from dynamicpo.runs.cluster.workflow_size import (
    LIMIT_BYTES,
    NODES_FACTOR,
    Workflow,
    check_size,
    compressed_bytes,
)
from dynamicpo.runs.compile import compile_pipeline
from dynamicpo.runs.parameters import check_parameters
from tests.conftest import ROOT
from tests.fixtures.kubeflow import Installation

IMAGE = "registry.invalid/dynamicpo@sha256:" + 64 * "a"
# The pipelines as they were compiled when their runs were measured on Kubeflow Pipelines 2.17.
MEASURED = ROOT / "tests" / "fixtures" / "measured_pipelines"
PLACEMENTS = sorted((ROOT / "k8s" / "overlays").glob("*/placement*.yaml"))
PARAMETERS = {
    "data_source": "movielens",
    "grid_num_negatives": "1,3,5,10,15,19",
    "grid_objectives": "dmpo,sdpo",
}


def measured(name: str, folder: Path) -> Path:
    path = folder / f"{name}.yaml"
    with gzip.open(MEASURED / f"{name}.yaml.gz") as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "study.yaml"
    compile_pipeline("negative_scaling", path, IMAGE)
    return path


def without_exit_handler(path: Path) -> Path:
    """The same pipeline with its stages at the root and without drift, as it was measured."""
    spec, *others = yaml.safe_load_all(path.read_text())
    stages = spec["components"].pop("comp-exit-handler-1")["dag"]
    del stages["tasks"]["monitor-drift"]
    spec["root"]["dag"] = stages
    path.write_text(yaml.safe_dump_all([spec, *others]))
    return path


def test_the_nodes_of_a_run_are_those_that_were_seen(tmp_path: Path):
    """A complete run of two objectives: 78 nodes, one of them a second attempt."""
    workflow = Workflow(without_exit_handler(measured("training", tmp_path)))
    nodes = list(workflow.nodes(2))
    assert len(nodes) == 77
    names = [node.name for node in nodes]
    assert names.count("executor") == 18 and names.count("train-preferences-driver") == 4
    compressed = NODES_FACTOR * compressed_bytes(iter(nodes))
    assert compressed == pytest.approx(126_000, rel=0.05)


def test_a_study_of_thirty_cells_is_larger_at_its_end_than_it_was_in_the_middle(tmp_path: Path):
    workflow = Workflow(measured("negative_scaling", tmp_path))
    rest = 377_000 - 230_000
    assert workflow.estimate_bytes(0) - NODES_FACTOR * compressed_bytes(
        workflow.nodes(0)
    ) == pytest.approx(rest, rel=0.02)
    # Half of its cells had started, and none was evaluated.
    assert 377_000 < workflow.estimate_bytes(30) < 3 * 377_000


@pytest.mark.parametrize(
    "placement", PLACEMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_forty_cells_fit_wherever_they_are_placed(tmp_path: Path, placement: Path):
    path = tmp_path / "study.yaml"
    fields = yaml.safe_load(placement.read_text())
    compile_pipeline("negative_scaling", path, IMAGE, fields)
    assert Workflow(path).filled_share(40) < 0.75


def test_sizes_grow_with_the_number_and_are_the_same_each_time(study: Path):
    sizes = [Workflow(study).estimate_bytes(count) for count in (1, 2, 10, 40)]
    assert sizes == sorted(set(sizes))
    assert sizes == [Workflow(study).estimate_bytes(count) for count in (1, 2, 10, 40)]


def seeds(count: int) -> str:
    return ",".join(str(seed) for seed in range(count))


def planned(num_seeds: int) -> dict[str, Any]:
    """The parameters of 22 cells for each seed."""
    return check_parameters(
        "negative_scaling", {**PARAMETERS, "grid_seeds": seeds(num_seeds)}, mounted=()
    )


def test_too_many_cells_are_refused_with_the_number_that_fits(study: Path):
    check_size(study, "negative_scaling", planned(2))
    with pytest.raises(ConfigError, match="negative_scaling: a run must fit into one") as caught:
        check_size(study, "negative_scaling", planned(20))
    words = str(caught.value).split()
    fitting = int(words[words.index("most") + 1])
    workflow = Workflow(study)
    assert workflow.filled_share(fitting) <= 1 < workflow.filled_share(fitting + 1)
    assert "grid_seeds" in str(caught.value)


def store_session() -> str:
    """How the launcher reaches a stock installation's store, as each artifact carries it."""
    parameters = {
        **{"accessKeyKey": "accesskey", "secretKeyKey": "secretkey", "fromEnv": "false"},
        **{"endpoint": "minio-service.kubeflow:9000", "disableSSL": "true", "region": "minio"},
        "secretName": "mlpipeline-minio-artifact",
    }
    return json.dumps({"Provider": "minio", "Params": parameters})


def template_of_the_last_task(study: Path, count: int) -> str:
    """The template that Argo hands to the pod of `judge-collapse`, with all that KFP puts there."""
    spec = next(yaml.safe_load_all(study.read_text()))
    component = spec["components"]["comp-judge-collapse"]
    container = spec["deploymentSpec"]["executors"]["exec-judge-collapse"]["container"]
    run = f"minio://mlpipeline/v2/artifacts/negative-scaling/{uuid.uuid4()}"

    def artifact(key: str, task: str) -> dict[str, Any]:
        return {
            "name": key,
            "type": {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"},
            "uri": f"{run}/{task}/{uuid.uuid4()}/{key}",
            "metadata": {"display_name": key, "store_session_info": store_session()},
        }

    uris = [artifact("report", "train-preferences")["uri"] for _ in range(count)]
    settings = check_parameters("negative_scaling", PARAMETERS, mounted=())
    made = component["outputDefinitions"]["artifacts"]
    executor_input = {
        "inputs": {
            "parameterValues": {
                **{"model_uris": uris, "training_report_uris": uris},
                **{"evaluation_report_uris": uris, "parameters": settings},
            },
            "artifacts": {
                "baselines": {"artifacts": [artifact("evaluation", "evaluate")]},
                "evaluations": {
                    "artifacts": [artifact("evaluation", "evaluate-2") for _ in range(count)]
                },
            },
        },
        "outputs": {
            "artifacts": {key: {"artifacts": [artifact(key, "judge-collapse")]} for key in made}
        },
    }
    launcher = ["--executor_input", dumps(executor_input), "--component_spec", dumps(component)]
    main = {**container, "args": [*launcher, "--", *container["command"], *container["args"]]}
    return dumps({"podSpecPatch": dumps({"containers": [main]})})


def dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def test_what_the_last_task_gets_fits_into_its_pods_environment(study: Path):
    """Longer, Argo needs a ConfigMap, which the controller of a stock KFP may not make."""
    workflow = Workflow(study)
    for count in (20, 40, 75):
        real = len(template_of_the_last_task(study, count))
        assert real < workflow.template_bytes(count) < 1.25 * real
    assert workflow.filled_share(40) < 0.75 < 1 < workflow.filled_share(90)
    assert workflow.estimate_bytes(90) < LIMIT_BYTES


def test_too_many_objectives_are_refused_too(tmp_path: Path):
    path = tmp_path / "training.yaml"
    compile_pipeline("training", path, IMAGE)
    parameters = check_parameters("training", {"data_source": "movielens"}, mounted=())
    check_size(path, "training", parameters)
    default = parameters["objectives"]
    assert isinstance(default, list)
    with pytest.raises(ConfigError, match=r"^training: .* objectives fit"):
        check_size(path, "training", {**parameters, "objectives": 300 * list(default)})


def test_nothing_is_uploaded_of_a_run_that_is_too_large(capsys: pytest.CaptureFixture[str]):
    words = ["submit", "negative_scaling", "--image", IMAGE, "--no-image-check"]
    for key, value in {**PARAMETERS, "grid_seeds": seeds(20)}.items():
        words += ["--param", f"{key}={value}"]
    with Installation().serving() as kubeflow:
        assert main([*words, "--host", kubeflow.host]) == 2
        assert not kubeflow.pipelines and not kubeflow.runs
    assert "cells fit" in capsys.readouterr().err


def test_a_study_is_uploaded_under_a_name_that_kubernetes_takes():
    words = ["submit", "negative_scaling", "--image", IMAGE, "--no-image-check"]
    with Installation().serving() as kubeflow:
        assert main([*words, "--param", "data_source=movielens", "--host", kubeflow.host]) == 0
        (pipeline,) = kubeflow.pipelines
        assert pipeline.display_name == "negative-scaling"
