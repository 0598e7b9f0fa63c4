"""Settings of a training on several nodes: they say where it runs, and change no result."""

from dataclasses import dataclass

from dynamicpo.core.config_fields import Checked, setting

# Of a pipeline's tasks, which have no flags: the settings as JSON.
TRAIN_JOB_VARIABLE = "DYNAMICPO_TRAIN_JOB"


@dataclass(frozen=True, kw_only=True)
class TrainJobConfig(Checked):
    """A `TrainJob` of Kubeflow Trainer: its nodes, and each node's resources and volumes."""

    runtime: str = setting("dynamicpo-torch", "TrainingRuntime that the nodes are made by")
    nodes: int = setting(2, "nodes of a training", low=1, high=64, unit="nodes")
    gpus_per_node: int = setting(1, "GPUs of a node (0: train on CPUs)", low=0, high=16)
    gpu_resource: str = setting("nvidia.com/gpu", "the resource that a GPU is")
    image: str = setting("", "image of the nodes, by digest (empty: the runtime's)")
    queue: str = setting("", "Kueue's LocalQueue (empty: none)")
    priority: str = setting("", "Kueue's WorkloadPriorityClass (empty: none)")
    node_selector: str = setting("", "labels of the nodes, key=value,...")
    tolerations: str = setting("", "taints of the nodes, key[=value]:effect,...")
    cpu: str = setting("4", "processors that a node requests")
    cpu_limit: str = setting("8", "most processors of a node")
    memory: str = setting("16Gi", "memory that a node requests")
    memory_limit: str = setting("32Gi", "most memory of a node")
    shared_memory: str = setting("8Gi", "size of a node's /dev/shm; it counts as its memory")
    data_claim: str = setting("", "PersistentVolumeClaim mounted at /data")
    token_secret: str = setting(
        "huggingface-token", "Secret whose key 'token' is the Hugging Face token, if it exists"
    )
    timeout_hours: int = setting(24, "longest time of the job", low=1, high=8760, unit="hours")
