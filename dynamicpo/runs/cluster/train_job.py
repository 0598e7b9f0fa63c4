"""The `TrainJob` of Kubeflow Trainer that does a stage's work on several nodes."""

import dataclasses
import os
from collections.abc import Mapping
from typing import NamedTuple

from dynamicpo.core.config_fields import Checked
from dynamicpo.core.config_lists import entries_of
from dynamicpo.core.config_train_job import TrainJobConfig
from dynamicpo.core.json_values import JsonObject, JsonValue

GROUP = "trainer.kubeflow.org"
VERSION = "v1alpha1"
# Names in the runtime (k8s/components/gpu/training-runtime.yaml).
NODE = "node"
_SHARED_MEMORY = "dshm"
_DATA = "data"
# Who the patches are by; Trainer keeps one for each.
_MANAGER = "dynamicpo/pipeline"
# Kubeflow's own store and the Secret of its keys: a node has no token to ask for them.
_STORE_SECRET = "mlpipeline-minio-artifact"
_STORE_KEYS = {"MINIO_ACCESS_KEY": "accesskey", "MINIO_SECRET_KEY": "secretkey"}
_STORE = "minio-service.kubeflow:9000"


class Owner(NamedTuple):
    """The pod of the pipeline's step, with which the job is deleted."""

    name: str
    uid: str


def train_job(
    name: str, namespace: str, command: list[str], config: TrainJobConfig, owner: Owner
) -> JsonObject:
    """A job for one attempt at a stage.

    Args:
        name: The job's name.
        namespace: The namespace of the step, and so of the job.
        command: The stage's command with its flags.
        config: Nodes, resources and volumes.
        owner: The step's pod.
    """
    labels = {
        "app.kubernetes.io/part-of": "dynamicpo",
        "kueue.x-k8s.io/queue-name": config.queue,
        "kueue.x-k8s.io/priority-class": config.priority,
    }
    metadata: JsonObject = {
        "name": name,
        "namespace": namespace,
        "labels": {name: value for name, value in labels.items() if value},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", **owner._asdict()}],
    }
    spec: JsonObject = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": config.runtime},
        "activeDeadlineSeconds": config.timeout_hours * 3600,
        "trainer": _trainer(command, config),
        "runtimePatches": [{"manager": _MANAGER, "trainingRuntimeSpec": _patch(config)}],
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": spec,
    }


def flags_of(config: Checked, values: Mapping[str, object]) -> list[str]:
    """The flags of a stage's command: the settings that are not the default, and other values."""
    given = {
        item.name: getattr(config, item.name)
        for item in dataclasses.fields(config)
        if getattr(config, item.name) != item.default
    }
    return [_flag(name, value) for name, value in {**given, **values}.items()]


def _flag(name: str, value: object) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag}={value}"


def _trainer(command: list[str], config: TrainJobConfig) -> JsonObject:
    requests: JsonObject = {"cpu": config.cpu, "memory": config.memory}
    limits: JsonObject = {"cpu": config.cpu_limit, "memory": config.memory_limit}
    if config.gpus_per_node:
        gpus = str(config.gpus_per_node)
        requests[config.gpu_resource] = limits[config.gpu_resource] = gpus
    trainer: JsonObject = {
        "numNodes": config.nodes,
        "numProcPerNode": max(config.gpus_per_node, 1),
        # Trainer gives torchrun the number of nodes and the first one's address (PET_...).
        "command": ["torchrun"],
        "args": ["--no-python", "dynamicpo", *command],
        "env": _environment(config),
        "resourcesPerNode": {"requests": requests, "limits": limits},
    }
    if config.image:
        trainer["image"] = config.image
    return trainer


def _environment(config: TrainJobConfig) -> list[JsonValue]:
    endpoint = os.environ.get("MINIO_ENDPOINT") or _STORE
    secrets = [_from_secret(name, _STORE_SECRET, key) for name, key in _STORE_KEYS.items()]
    token = _from_secret("HF_TOKEN", config.token_secret, "token")
    return [{"name": "MINIO_ENDPOINT", "value": endpoint}, *secrets, token]


def _from_secret(variable: str, secret: str, key: str) -> JsonObject:
    reference: JsonObject = {"name": secret, "key": key, "optional": True}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _patch(config: TrainJobConfig) -> JsonObject:
    """The patch of the runtime: volumes, labels and taints of its nodes."""
    shared_memory: JsonObject = {"medium": "Memory", "sizeLimit": config.shared_memory}
    volumes: list[JsonValue] = [{"name": _SHARED_MEMORY, "emptyDir": shared_memory}]
    mounts: list[JsonValue] = []
    if config.data_claim:
        claim: JsonObject = {"claimName": config.data_claim}
        volumes.append({"name": _DATA, "persistentVolumeClaim": claim})
        mounts.append({"name": _DATA, "mountPath": "/data"})
    pod: JsonObject = {"containers": [{"name": NODE, "volumeMounts": mounts}], "volumes": volumes}
    if config.node_selector:
        labels = [entry.partition("=") for entry in entries_of(config.node_selector)]
        pod["nodeSelector"] = {key: value for key, _, value in labels}
    if config.tolerations:
        pod["tolerations"] = [_toleration(part) for part in entries_of(config.tolerations)]
    job: JsonObject = {"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}


def _toleration(text: str) -> JsonObject:
    taint, _, effect = text.rpartition(":")
    key, has_value, value = taint.partition("=")
    if not has_value:
        return {"key": key, "operator": "Exists", "effect": effect}
    return {"key": key, "operator": "Equal", "value": value, "effect": effect}
