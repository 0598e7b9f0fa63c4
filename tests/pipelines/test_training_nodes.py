"""Trainings of compiled pipelines on several nodes: the task that makes their TrainJob."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from dynamicpo.core.config_fields import from_mapping
from dynamicpo.core.config_train_job import TRAIN_JOB_VARIABLE, TrainJobConfig
from dynamicpo_pipelines.placement import Placement, placed
from dynamicpo_pipelines.training_nodes import on_training_nodes
from tests.pipelines.conftest import train


@dsl.pipeline(name="nodes")
def training_alone():
    on_training_nodes(train(x=1))


def compiled(folder: Path, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    path = folder / "nodes.yaml"
    compiler.Compiler().compile(placed(training_alone, Placement(**fields)), str(path))
    spec, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return spec["deploymentSpec"]["executors"]["exec-train"]["container"], executors["exec-train"]


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_training_takes_gpus_itself_or_hands_them_to_its_job(nodes: int, tmp_path: Path):
    container, executor = compiled(
        tmp_path, nodes=nodes, gpu_count=4, queue="gpu", checkpoint_prefix="gs://a/kept"
    )
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["DYNAMICPO_CHECKPOINT_PREFIX"] == "gs://a/kept"
    has_gpus = "accelerator" in container["resources"]
    assert has_gpus == (nodes == 1) == (TRAIN_JOB_VARIABLE not in environment)
    labels = executor["podMetadata"]["labels"]
    assert ("kueue.x-k8s.io/queue-name" in labels) == has_gpus
    if nodes == 2:
        values = json.loads(environment[TRAIN_JOB_VARIABLE])
        job = from_mapping(TrainJobConfig, values, "job")
        assert (job.nodes, job.gpus_per_node, job.queue) == (2, 4, "gpu")
        assert job.tolerations == "nvidia.com/gpu:NoSchedule"
        # As long as the job may wait for its nodes and train.
        assert int(executor["activeDeadlineSeconds"]) == (24 + 24) * 3600
