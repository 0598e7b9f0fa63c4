"""Trainings on several nodes: the TrainJob, its way to its end, and what its nodes run."""

import logging
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from dynamicpo.core.config import SFTConfig
from dynamicpo.core.config_checkpoints import CheckpointConfig
from dynamicpo.core.config_train_job import TRAIN_JOB_VARIABLE, TrainJobConfig
from dynamicpo.core.errors import ConfigError, RunFailedError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.runs.cluster import train_job_run, train_stage
from dynamicpo.runs.cluster.train_job import Owner, flags_of, train_job
from dynamicpo.runs.cluster.train_job_api import TrainJobs
from dynamicpo.runs.cluster.train_job_run import run_train_job
from dynamicpo.training.sft import fine_tune
from tests.fixtures.folders import write_preferences
from tests.fixtures.train_jobs import JOBS, Cluster, running

OWNER = Owner("step-pod", "1b2c")
PLACED = TrainJobConfig(
    nodes=2,
    gpus_per_node=4,
    image="registry/dynamicpo-gpu@sha256:" + 64 * "a",
    queue="gpu-spot",
    priority="dynamicpo-experiment",
    node_selector="nvidia.com/gpu.present=true, zone=a",
    tolerations="nvidia.com/gpu:NoSchedule,spot=true:NoExecute",
    shared_memory="16Gi",
    data_claim="shared",
)
SETTINGS = SFTConfig(max_steps=3, batch_size=4, sequences=True, loss_on="history")


def make_job(name: str = "sft-1") -> dict[str, Any]:
    flags = flags_of(SETTINGS, {"preferences": "minio://a/rows", "output": "minio://a/model"})
    return train_job(name, "team", ["sft", *flags], PLACED, OWNER)


def test_the_crds_accept_the_job(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    broken = make_job("broken")
    broken["spec"]["trainer"]["numNodes"] = "two"
    path.write_text(yaml.safe_dump_all([make_job(), broken]))
    crds = sorted(shared.glob("schemas/*_*.yaml"))
    command = [sys.executable, shared / "tools" / "crdcheck.py", *crds, "--", path]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.stdout.splitlines()[-1] == "1 passed, 1 failed", checked.stdout


def test_the_job_says_nodes_queue_volumes_and_whose_it_is() -> None:
    job = make_job()
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpu-spot"
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "step-pod", "uid": "1b2c"}
    ]
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "4"
    assert trainer["image"].endswith("a") and trainer["command"] == ["torchrun"]
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true", "zone": "a"}
    assert pod["tolerations"][1] == {
        "key": "spot",
        "operator": "Equal",
        "value": "true",
        "effect": "NoExecute",
    }
    sizes = {volume["name"]: volume for volume in pod["volumes"]}
    assert sizes["dshm"]["emptyDir"]["sizeLimit"] == "16Gi"
    assert sizes["data"]["persistentVolumeClaim"] == {"claimName": "shared"}
    # Keys and tokens come from Secrets alone.
    values = [entry for entry in trainer["env"] if "value" in entry]
    assert [entry["name"] for entry in values] == ["MINIO_ENDPOINT"]


def test_a_job_is_followed_to_its_end_with_each_line_of_its_log_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster(
        states=["", "503", "Running", "", "Complete"],
        phases=["Pending", "Running"],
        # The connection broke off after the first line.
        logs=["step 1\n", "step 1\nstep 2\n", "step 1\nstep 2\nstep 3\n"],
    )
    with running(cluster) as client, caplog.at_level(logging.INFO):
        run_train_job(make_job(), "sft-1", TrainJobs(client, "team", 0.01), poll_seconds=0.01)
    shown = [line for line in caplog.messages if line.startswith("node 0: ")]
    assert shown == ["node 0: step 1", "node 0: step 2", "node 0: step 3"]
    assert "the API server answers with 503" in caplog.text
    assert caplog.messages[-1] == "TrainJob sft-1: complete"
    assert list(cluster.jobs) == ["sft-1"]


def test_a_failed_job_fails_the_step_with_its_reason_and_is_deleted() -> None:
    cluster = Cluster(states=["", "Failed"])
    with running(cluster) as client, pytest.raises(RunFailedError, match="the disk was full"):
        run_train_job(make_job(), "sft-1", TrainJobs(client, "team"), poll_seconds=0.01)
    assert cluster.requests[-1] == f"DELETE {JOBS}/sft-1" and not cluster.jobs


def test_an_interrupted_step_deletes_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_job_run.time, "sleep", interrupt)
    cluster = Cluster(states=[""])
    with running(cluster) as client, pytest.raises(KeyboardInterrupt):
        run_train_job(make_job(), "sft-1", TrainJobs(client, "team"))
    assert not cluster.jobs


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [(403, ConfigError, "components/gpu"), (404, ConfigError, "Install"), (422, ConfigError, "no")],
)
def test_a_job_that_can_not_be_made_is_one_error(
    status: int, kind: type[Exception], hint: str
) -> None:
    cluster = Cluster(refusal=status)
    with running(cluster) as client, pytest.raises(kind, match=hint):
        run_train_job(make_job(), "sft-1", TrainJobs(client, "team"))
    assert len(cluster.requests) == 1


def test_a_job_that_somebody_deletes_is_a_failed_run() -> None:
    cluster = Cluster(states=["", "404"])
    with running(cluster) as client, pytest.raises(RunFailedError, match="it was deleted"):
        run_train_job(make_job(), "sft-1", TrainJobs(client, "team"), poll_seconds=0.01)


def test_a_component_hands_its_work_over_only_where_it_was_compiled_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "done"
    preferences = write_preferences(tmp_path / "preferences")
    fine_tune(preferences, done, SFTConfig(max_steps=1, batch_size=2))
    output: Any = SimpleNamespace(uri=str(done), path=str(done))
    inputs = {"preferences": "minio://a/rows"}
    kept = CheckpointConfig(checkpoints="minio://a/kept", checkpoint_minutes=3)
    assert train_stage.trained_on_nodes("sft", inputs, output, SETTINGS, kept) is None
    monkeypatch.setenv(TRAIN_JOB_VARIABLE, '{"nodes": 3, "gpus_per_node": 0}')
    with pytest.raises(ConfigError, match="several need a pod of a cluster"):
        train_stage.trained_on_nodes("sft", inputs, output, SETTINGS, kept)
    monkeypatch.setenv("KFP_POD_NAME", "step-pod")
    monkeypatch.setenv("KFP_POD_UID", "1b2c")
    cluster = Cluster(states=["Complete"])
    with running(cluster) as client:
        monkeypatch.setattr(train_stage, "_cluster", lambda: (client, "team"))
        manifest = train_stage.trained_on_nodes("sft", inputs, output, SETTINGS, kept)
    assert manifest == read_manifest(done)
    (job,) = cluster.jobs.values()
    assert job["spec"]["trainer"]["numNodes"] == 3
    flags = job["spec"]["trainer"]["args"]
    assert {"--sequences", "--batch-size=4", "--checkpoints=minio://a/kept"} <= set(flags)
    assert f"--output={done}" in flags and "--checkpoint-minutes=3" in flags


@pytest.mark.training
def test_the_jobs_own_command_trains_on_two_nodes(tmp_path: Path) -> None:
    """As Trainer starts it: torchrun's static rendezvous, from the variables that it sets."""
    preferences = write_preferences(tmp_path / "preferences")
    values = {"preferences": preferences, "output": tmp_path / "output", "checkpoints": "none"}
    config = SFTConfig(max_steps=3, batch_size=2)
    alone = fine_tune(preferences, tmp_path / "alone", config)
    job: Any = train_job("sft-1", "team", ["sft", *flags_of(config, values)], PLACED, OWNER)
    trainer = job["spec"]["trainer"]
    program = shutil.which(trainer["command"][0], path=Path(sys.executable).parent)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Whatever is in the shell, the nodes' `dynamicpo` is this one's.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    place = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1"}
    nodes = []
    for rank in range(2):
        environment = {**os.environ, **place, "PATH": path, "PET_MASTER_PORT": str(port)}
        environment |= {"PET_NODE_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        node = subprocess.Popen(
            [str(program), *trainer["args"]],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        nodes.append(node)
    logs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], logs
    assert "2 processes work together" in logs[0]
    together = read_manifest(tmp_path / "output")
    assert together.counts["final_loss"] == pytest.approx(alone.counts["final_loss"], rel=1e-5)
