"""A component's training on several nodes, where its pipeline was compiled for several."""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dynamicpo.core.config_checkpoints import CheckpointConfig, checkpoint_values
from dynamicpo.core.config_fields import Checked, from_mapping
from dynamicpo.core.config_train_job import TRAIN_JOB_VARIABLE, TrainJobConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.records.manifest import Manifest, read_manifest
from dynamicpo.core.storage import fetch, is_remote
from dynamicpo.runs.cluster.train_job import Owner, flags_of, train_job
from dynamicpo.runs.cluster.train_job_api import TrainJobs
from dynamicpo.runs.cluster.train_job_run import run_train_job

if TYPE_CHECKING:
    from kfp import dsl
    from kubernetes.client import ApiClient

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Of the pod of a step, by Kubeflow Pipelines.
_POD_NAME, _POD_UID = "KFP_POD_NAME", "KFP_POD_UID"


def trained_on_nodes(
    stage: str,
    inputs: Mapping[str, str],
    output: "dsl.Artifact",
    config: Checked,
    checkpoints: CheckpointConfig | None,
) -> Manifest | None:
    """Have a TrainJob do a stage's work, and follow it to its end.

    Args:
        stage: The stage's command.
        inputs: URIs by the names of their flags; empty ones are not given.
        output: The artifact that the job makes, in the store.
        config: The stage's settings.
        checkpoints: Place and interval of checkpoints.

    Returns:
        The output's manifest, once it is at the artifact's path; None where the pipeline was
        compiled for one node, and this process is to do the work.

    Raises:
        ConfigError: The job can't be made here.
        RunFailedError: It has failed.
    """
    settings = _compiled()
    if settings is None:
        return None
    given = {name: uri for name, uri in inputs.items() if uri}
    kept = checkpoint_values(checkpoints)
    flags = flags_of(config, {**given, "output": output.uri, **kept})
    client, namespace = _cluster()
    # A retry makes a job of its own, while the one before may still be ending.
    name = f"{stage}-{uuid.uuid4().hex[:8]}"
    job = train_job(name, namespace, [stage, *flags], settings, _owner())
    run_train_job(job, name, TrainJobs(client, namespace))
    _fetch(output.uri, Path(output.path))
    return read_manifest(Path(output.path))


def _compiled() -> TrainJobConfig | None:
    # By the environment: it is no part of the key of KFP's cache.
    text = os.environ.get(TRAIN_JOB_VARIABLE, "")
    return from_mapping(TrainJobConfig, json.loads(text), TRAIN_JOB_VARIABLE) if text else None


def _cluster() -> tuple["ApiClient", str]:
    """A client of this pod's API server, and this pod's namespace."""
    from kubernetes import client, config

    try:
        config.load_incluster_config()
        namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError) as error:
        raise ConfigError(
            "nodes: several need a pod of a cluster, whose API server makes the TrainJob, but "
            f"this process is in none ({error}). Run it with nodes 1, or on Kubeflow."
        ) from error
    return client.ApiClient(), namespace


def _owner() -> Owner:
    name, uid = os.environ.get(_POD_NAME, ""), os.environ.get(_POD_UID, "")
    if not name or not uid:
        raise ConfigError(
            f"{_POD_NAME}, {_POD_UID}: must name the step's pod, with which the TrainJob ends, but "
            "are not set. Run it as a step of Kubeflow Pipelines."
        )
    return Owner(name, uid)


def _fetch(uri: str, path: Path) -> None:
    """Put the output where Kubeflow's launcher looks for it."""
    if not is_remote(uri):
        return
    with tempfile.TemporaryDirectory() as scratch:
        local = fetch(uri, Path(scratch))
        shutil.copytree(local, path, dirs_exist_ok=True)
