"""Placement of a pipeline's tasks on a cluster: nodes, resources and volumes, compiled into it.

The fields of `Placement` are options of compilation, not parameters of a run, for three reasons.
KFP takes labels, time limits, retries, volumes and shared memory as constants only. A resource that
is a parameter enters the key of KFP's cache, so that more memory would compute everything again.
And such a parameter, in a loop, is not passed on by the compiler (kfp 2.17.0), which fails on the
cluster alone. Local runs are not placed.
"""

import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from kfp import dsl, kubernetes
from kubernetes.utils import parse_quantity

from dynamicpo.core.config_checkpoints import (
    CHECKPOINT_MINUTES_VARIABLE,
    CHECKPOINT_PREFIX_VARIABLE,
)
from dynamicpo.core.config_fields import Checked, check_fields, setting
from dynamicpo.core.config_inputs import HASH_KEY_VARIABLE
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.storage import SCHEMES
from dynamicpo_components.image import IMAGE

# Names that the manifests in k8s/ and the images share with the pipelines; k8s/consistency.py
# compares them.
SERVICE_ACCOUNT = "dynamicpo-pipeline"
USER = 10001
CACHE, DATA = "/cache", "/data"
# CPU tasks keep off every node that has one of these labels, whether it is tainted or not.
GPU_NODE_LABELS = ("cloud.google.com/gke-accelerator", "nvidia.com/gpu.present")

_PREFIXES = (*SCHEMES, f"{DATA}/")
_LONGEST_WAIT_SECONDS = 24 * 3600
_KEY = r"[\w.-]+(?:/[\w.-]+)?"
_SELECTOR = re.compile(rf"({_KEY})=([\w.-]*)")
_TOLERATION = re.compile(rf"({_KEY})(?:=([\w.-]*))?:(NoSchedule|PreferNoSchedule|NoExecute)")
_SECRET_NAME = re.compile(r"[\w.-]{1,253}")
_QUANTITY = re.compile(r"[1-9]\d*(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_QUANTITIES = (
    *("gpu_cpu", "gpu_cpu_limit", "gpu_memory", "gpu_memory_limit", "scratch", "shared_memory"),
    *("task_cpu", "task_cpu_limit", "task_memory", "task_memory_limit"),
)


@dataclass(frozen=True, kw_only=True)
class Placement(Checked):
    """Nodes, resources, limits and volumes of a pipeline's tasks.

    GPU tasks are SFT, preference training and evaluation. The rest are CPU tasks.
    """

    gpu_count: int = setting(
        1, "GPUs of a GPU task (0: run it without one, on any node)", low=0, high=16
    )
    gpu_resource: str = setting("nvidia.com/gpu", "the resource that a GPU is")
    nodes: int = setting(
        1,
        "nodes of a training, each with gpu_count GPUs (more than 1: by Kubeflow Trainer)",
        low=1,
        high=64,
    )
    training_runtime: str = setting(
        "dynamicpo-torch", "Trainer's TrainingRuntime, where a training has several nodes"
    )
    gpu_image: str = setting("", "image of GPU tasks, by digest (empty: that of all tasks)")
    gpu_node_selector: str = setting(
        "cloud.google.com/gke-accelerator=nvidia-l4", "labels of GPU nodes, key=value,..."
    )
    gpu_tolerations: str = setting(
        "nvidia.com/gpu:NoSchedule", "taints of GPU nodes, key[=value]:effect,..."
    )
    spot: bool = setting(False, "run GPU tasks on spot nodes")
    spot_node_selector: str = setting(
        "cloud.google.com/gke-spot=true", "labels of spot nodes, key=value,..."
    )
    spot_tolerations: str = setting(
        "cloud.google.com/gke-spot=true:NoSchedule", "taints of spot nodes"
    )
    queue: str = setting("", "Kueue's LocalQueue for GPU tasks (empty: none)")
    priority: str = setting("", "Kueue's WorkloadPriorityClass for GPU tasks (empty: none)")
    gpu_cpu: str = setting("4", "processors that a GPU task requests")
    gpu_cpu_limit: str = setting("8", "most processors of a GPU task")
    gpu_memory: str = setting("16Gi", "memory that a GPU task requests")
    gpu_memory_limit: str = setting("32Gi", "most memory of a GPU task")
    shared_memory: str = setting("8Gi", "size of /dev/shm of a GPU task; it counts as its memory")
    gpu_timeout_hours: int = setting(
        24, "longest time of one attempt at a GPU task, once it has a node", low=1, high=8760
    )
    task_cpu: str = setting("1", "processors that a CPU task requests")
    task_cpu_limit: str = setting("4", "most processors of a CPU task")
    task_memory: str = setting("4Gi", "memory that a CPU task requests")
    task_memory_limit: str = setting("16Gi", "most memory of a CPU task")
    task_timeout_hours: int = setting(
        4, "longest time of one attempt at a CPU task, once it has a node", low=1, high=8760
    )
    scratch: str = setting("50Gi", "most temporary files of a task (/tmp, on the node's disk)")
    retries: int = setting(
        3, "how often a task that failed, or whose node gave notice, is tried again", low=0, high=20
    )
    retry_seconds: int = setting(60, "wait before the first retry", low=1, high=86_400)
    retry_factor: int = setting(1, "each later wait is longer by this whole factor", low=1, high=10)
    node_wait_hours: int = setting(
        24, "allowance for each attempt's wait for a node or in a queue", low=1, high=720
    )
    token_secret: str = setting(
        "huggingface-token", "Secret whose key 'token' is the Hugging Face token, if it exists"
    )
    hash_key_secret: str = setting(
        "dynamicpo-hash-key", "Secret with the key of hashed user ids, if it exists; data_prep only"
    )
    hash_key_entry: str = setting("key", "name of the key's entry in that Secret")
    cache_claim: str = setting(
        "", "PersistentVolumeClaim for base models, mounted at /cache in GPU tasks and data_prep"
    )
    data_claim: str = setting(
        "", "PersistentVolumeClaim mounted at /data in all tasks, in place of an object store"
    )
    checkpoint_prefix: str = setting(
        "",
        "place for checkpoints of trainings and evaluations, the same on a retry: gs://..., "
        "s3://..., minio://... or /data/... (empty: a retry starts anew)",
    )
    checkpoint_minutes: int = setting(
        10, "minutes between two checkpoints, which is what a lost node costs", low=1, high=1440
    )

    def __post_init__(self) -> None:
        """Check the fields, then what their types don't say; all problems at once."""
        check_fields(self)
        problems = [
            *self._quantity_problems(),
            *self._node_problems(),
            *self._retry_problems(),
            *self._secret_problems(),
        ]
        if self.checkpoint_prefix and not self.checkpoint_prefix.startswith(_PREFIXES):
            problems.append(
                f"checkpoint_prefix: must start with {' or '.join(_PREFIXES)}, "
                f"got {self.checkpoint_prefix!r}."
            )
        if self.checkpoint_prefix.startswith(f"{DATA}/") and not self.data_claim:
            problems.append(f"data_claim: must be given for a checkpoint_prefix below {DATA}.")
        if problems:
            raise ConfigError("\n".join(problems))

    def _quantity_problems(self) -> Iterator[str]:
        for name in _QUANTITIES:
            value = getattr(self, name)
            if not _QUANTITY.fullmatch(value):
                yield f"{name}: must be a quantity such as 4, 500m or 16Gi, got {value!r}."
                return
        for name in ("gpu_cpu", "gpu_memory", "task_cpu", "task_memory"):
            request, limit = getattr(self, name), getattr(self, f"{name}_limit")
            if parse_quantity(request) > parse_quantity(limit):
                yield f"{name}: must be <= {name}_limit ({limit}), got {request!r}."

    def _node_problems(self) -> Iterator[str]:
        for name in (
            "gpu_node_selector",
            "spot_node_selector",
            "gpu_tolerations",
            "spot_tolerations",
        ):
            form, what = (
                (_SELECTOR, "key=value")
                if name.endswith("selector")
                else (_TOLERATION, "key[=value]:effect")
            )
            for part in _parts(getattr(self, name)):
                if not form.fullmatch(part):
                    yield f"{name}: must be {what}, with commas between several, got {part!r}."

    def _secret_problems(self) -> Iterator[str]:
        for name in ("hash_key_secret", "hash_key_entry"):
            value = getattr(self, name)
            if not _SECRET_NAME.fullmatch(value):
                yield f"{name}: must be a name in Kubernetes, such as my-key, got {value!r}."

    def _retry_problems(self) -> Iterator[str]:
        longest_wait = self._wait_seconds(self.retries)
        if longest_wait > _LONGEST_WAIT_SECONDS:
            yield (
                f"retry_factor: must keep the last of {self.retries} waits at <= 24 hours, "
                f"got {self.retry_factor} and so {longest_wait // 3600} hours. "
                "Lower it, retries or retry_seconds."
            )

    def _wait_seconds(self, retry: int) -> int:
        """The wait before a retry, counted from 1; 0 before the first attempt."""
        return self.retry_seconds * self.retry_factor ** (retry - 1) if retry else 0

    def gpu_nodes(self) -> tuple[list[str], list[str]]:
        """The labels and the taints of the nodes of GPU tasks."""
        selectors, taints = _parts(self.gpu_node_selector), _parts(self.gpu_tolerations)
        if self.spot:
            selectors += _parts(self.spot_node_selector)
            taints += _parts(self.spot_tolerations)
        return selectors, taints

    def total_seconds(self, timeout_hours: int) -> int:
        """The time of all attempts at a task: each as long as it may be, and all waits.

        Args:
            timeout_hours: The longest time of one attempt, once it has a node.
        """
        attempts = range(self.retries + 1)
        attempt_seconds = (timeout_hours + self.node_wait_hours) * 3600
        return sum(attempt_seconds + self._wait_seconds(retry) for retry in attempts)


_CURRENT: ContextVar[Placement | None] = ContextVar("placement", default=None)


def current_placement() -> Placement | None:
    """The placement of the pipeline that is being compiled; None for a local run."""
    return _CURRENT.get()


def placed(pipeline: Any, placement: Placement) -> Any:
    """The same pipeline, with its tasks placed on a cluster.

    Args:
        pipeline: A kfp graph component, as `@dsl.pipeline` makes it.
        placement: Where its tasks run.
    """
    token = _CURRENT.set(placement)
    try:
        return dsl.pipeline(
            pipeline.pipeline_func, name=pipeline.name, description=pipeline.description
        )
    finally:
        _CURRENT.reset(token)


def on_cpu(task: dsl.PipelineTask, *, is_retried: bool = True) -> dsl.PipelineTask:
    """Keep a task off GPU nodes.

    Args:
        task: The task.
        is_retried: Whether a later attempt can end otherwise than the first: not for a task that
            only checks its input, where the user would wait for the same error again.

    Returns:
        The task; unchanged where the pipeline is not placed.
    """
    placement = _CURRENT.get()
    if placement is not None:
        task.set_cpu_request(placement.task_cpu).set_cpu_limit(placement.task_cpu_limit)
        task.set_memory_request(placement.task_memory).set_memory_limit(placement.task_memory_limit)
        kubernetes.set_timeout(task, placement.task_timeout_hours * 3600)
        _avoid_gpu_nodes(task)
        _on_any(task, placement)
        if is_retried:
            try_again(task, placement, placement.task_timeout_hours)
    return task


def reading_raw_data(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give the task that reads raw data the key of hashed ids, and what a tokenizer is loaded with.

    No other task gets the key. Returns the task; unchanged where the pipeline is not placed.
    """
    placement = _CURRENT.get()
    if placement is not None:
        entries = {placement.hash_key_entry: HASH_KEY_VARIABLE}
        kubernetes.use_secret_as_env(task, placement.hash_key_secret, entries, optional=True)
        _provide_base_models(task, placement)
    return task


def on_gpu(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Run a task on a GPU node. Returns the task; unchanged where the pipeline is not placed."""
    placement = _CURRENT.get()
    if placement is not None:
        task.set_cpu_request(placement.gpu_cpu).set_cpu_limit(placement.gpu_cpu_limit)
        task.set_memory_request(placement.gpu_memory).set_memory_limit(placement.gpu_memory_limit)
        kubernetes.set_timeout(task, placement.gpu_timeout_hours * 3600)
        kubernetes.empty_dir_mount(
            task, "dshm", "/dev/shm", medium="Memory", size_limit=placement.shared_memory
        )
        if placement.gpu_count:
            _take_gpus(task, placement)
        _provide_base_models(task, placement)
        keep_checkpoints(task, placement)
        _on_any(task, placement)
        try_again(task, placement, placement.gpu_timeout_hours)
    return task


def keep_checkpoints(task: dsl.PipelineTask, placement: Placement) -> None:
    """Tell a task where and how often it keeps what it has finished."""
    if placement.checkpoint_prefix:
        task.set_env_variable(CHECKPOINT_PREFIX_VARIABLE, placement.checkpoint_prefix)
    minutes = str(placement.checkpoint_minutes)
    task.set_env_variable(CHECKPOINT_MINUTES_VARIABLE, minutes)


def _take_gpus(task: dsl.PipelineTask, placement: Placement) -> None:
    """Nodes, taints, queue and image of a task that has GPUs."""
    task.set_accelerator_type(placement.gpu_resource).set_accelerator_limit(placement.gpu_count)
    selectors, taints = placement.gpu_nodes()
    for selector in selectors:
        kubernetes.add_node_selector(task, *selector.split("=", 1))
    for taint in taints:
        _tolerate(task, taint)
    labels = {
        "kueue.x-k8s.io/queue-name": placement.queue,
        "kueue.x-k8s.io/priority-class": placement.priority,
    }
    for label, value in labels.items():
        if value:
            kubernetes.add_pod_label(task, label, value)
    if placement.gpu_image:
        task.set_container_image(placement.gpu_image)


def _provide_base_models(task: dsl.PipelineTask, placement: Placement) -> None:
    """Provide the token and the cache for base models."""
    kubernetes.use_secret_as_env(task, placement.token_secret, {"token": "HF_TOKEN"}, optional=True)
    if placement.cache_claim:
        kubernetes.mount_pvc(task, placement.cache_claim, CACHE)
        task.set_env_variable("HF_HOME", f"{CACHE}/huggingface")


def _on_any(task: dsl.PipelineTask, placement: Placement) -> None:
    """User, scratch and volume, the same for all tasks."""
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=0, run_as_non_root=True)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "dynamicpo")
    kubernetes.empty_dir_mount(task, "scratch", "/tmp", size_limit=placement.scratch)
    if placement.data_claim:
        kubernetes.mount_pvc(task, placement.data_claim, DATA)


def try_again(task: dsl.PipelineTask, placement: Placement, timeout_hours: int) -> None:
    """Let a task be tried again, as often as the placement says."""
    if placement.retries:
        # Argo reads KFP's "backoff_max_duration" as the time of all attempts together, from the
        # start of the first, and kills what runs longer; left out, the SDK writes one hour.
        task.set_retry(
            placement.retries,
            backoff_duration=f"{placement.retry_seconds}s",
            backoff_factor=placement.retry_factor,
            backoff_max_duration=f"{placement.total_seconds(timeout_hours)}s",
        )


def _avoid_gpu_nodes(task: dsl.PipelineTask) -> None:
    expressions = [{"key": label, "operator": "DoesNotExist"} for label in GPU_NODE_LABELS]
    kubernetes.add_node_affinity(task, match_expressions=expressions)


def _tolerate(task: dsl.PipelineTask, taint: str) -> None:
    match = _TOLERATION.fullmatch(taint)
    if match is None:  # Placement has checked it
        raise ConfigError(f"tolerations: must be key[=value]:effect, got {taint!r}.")
    key, value, effect = match.groups()
    operator = "Exists" if value is None else "Equal"
    kubernetes.add_toleration(task, key=key, operator=operator, value=value, effect=effect)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def run_facts(pipeline: str, parameters: Any) -> dict[str, Any]:
    """Tell the task that writes a run's record what no task can find out by itself.

    Args:
        pipeline: The pipeline's name.
        parameters: All parameters, as the first task gives them.

    Returns:
        Arguments of the task that writes the record. None where the pipeline is not placed: a
        local run tells of itself, and its cache would not know that task again.
    """
    placement = _CURRENT.get()
    if placement is None:
        return {}
    images = [IMAGE]
    if placement.gpu_count and placement.gpu_image:
        images.append(placement.gpu_image)
    return {
        "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        "pipeline": pipeline,
        "images": images,
        "parameters": parameters,
    }


def never_cached(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Have a task run anew in every run on a cluster, as its output tells of that run.

    Returns:
        The task. Unchanged where the pipeline is not placed: a local run tells of itself.
    """
    if _CURRENT.get() is not None:
        task.set_caching_options(False)
    return task


def made_anew(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Have a task run anew in every run, here as well, as it reads what no argument names.

    Returns:
        The task.
    """
    task.set_caching_options(False)
    return task
