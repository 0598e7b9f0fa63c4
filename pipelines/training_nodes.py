"""Trainings of a pipeline on several nodes: a light task makes a `TrainJob`, and follows it."""

import dataclasses
import json

from kfp import dsl, kubernetes

from dynamicpo.core.config_train_job import TRAIN_JOB_VARIABLE, TrainJobConfig
from dynamicpo_pipelines.placement import (
    Placement,
    current_placement,
    keep_checkpoints,
    on_cpu,
    on_gpu,
    try_again,
)


def on_training_nodes(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Place a training: on a GPU node, or beside the nodes of the job that it makes.

    Returns the task; unchanged where the pipeline is not placed.
    """
    placement = current_placement()
    if placement is None or placement.nodes == 1:
        return on_gpu(task)
    on_cpu(task, is_retried=False)
    # As long as the job may take, its wait in a queue included.
    hours = placement.gpu_timeout_hours + placement.node_wait_hours
    kubernetes.set_timeout(task, hours * 3600)
    keep_checkpoints(task, placement)
    settings = dataclasses.asdict(train_job_config(placement))
    task.set_env_variable(TRAIN_JOB_VARIABLE, json.dumps(settings))
    try_again(task, placement, hours)
    return task


def train_job_config(placement: Placement) -> TrainJobConfig:
    """The settings of the job of a training."""
    selectors, taints = placement.gpu_nodes() if placement.gpu_count else ([], [])
    return TrainJobConfig(
        runtime=placement.training_runtime,
        nodes=placement.nodes,
        gpus_per_node=placement.gpu_count,
        gpu_resource=placement.gpu_resource,
        image=placement.gpu_image,
        queue=placement.queue,
        priority=placement.priority,
        node_selector=",".join(selectors),
        tolerations=",".join(taints),
        cpu=placement.gpu_cpu,
        cpu_limit=placement.gpu_cpu_limit,
        memory=placement.gpu_memory,
        memory_limit=placement.gpu_memory_limit,
        shared_memory=placement.shared_memory,
        data_claim=placement.data_claim,
        token_secret=placement.token_secret,
        timeout_hours=placement.gpu_timeout_hours,
    )
