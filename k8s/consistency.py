"""Do compiled pipelines fit the manifests and the node pools? What one names, the others must have.

    python k8s/consistency.py --manifests RENDERED.yaml --pipelines PIPELINE.yaml...
        [--node-pools COMMANDS.txt]

COMMANDS.txt is what k8s/gke/node-pools.sh prints with --dry-run. Exit code 0: they fit; 3: they
don't, a line for each.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dynamicpo_pipelines.placement import SERVICE_ACCOUNT, USER

QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
GPU = "nvidia.com/gpu"
Document = Mapping[str, Any]


def problems(
    pipeline: Sequence[Document], manifests: Sequence[Document], pools: str = ""
) -> Iterator[str]:
    """Everything that a compiled pipeline names and that is not there.

    Args:
        pipeline: The two documents of a compiled pipeline.
        manifests: A rendered overlay.
        pools: The commands that make the node pools, or nothing.
    """
    if len(pipeline) < 2:
        yield (
            "pipeline: must be placed (two documents), but it has no Kubernetes part. "
            "Compile it with a placement."
        )
        return
    found = Manifests(manifests)
    if SERVICE_ACCOUNT not in found.names("ServiceAccount"):
        yield f"service account {SERVICE_ACCOUNT!r}: named by the pipelines, not in the manifests"
    containers = pipeline[0]["deploymentSpec"]["executors"]
    executors = pipeline[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in containers.items():
        if not re.search(r"@sha256:[0-9a-f]{64}$", executor["container"]["image"]):
            image = executor["container"]["image"]
            yield (
                f"{name}: image {image!r}: must be named by digest. "
                "Compile it with --image NAME@sha256:..."
            )
    for name in sorted(set(containers) - set(executors)):
        yield f"{name}: must be placed, but it has no Kubernetes part"
    for name, executor in executors.items():
        gpus = int(
            containers[name]["container"]
            .get("resources", {})
            .get("accelerator", {})
            .get("resourceCount", 0)
        )
        for problem in _executor(executor, gpus, found, pools):
            yield f"{name}: {problem}"


def _executor(executor: Document, gpus: int, found: "Manifests", pools: str) -> Iterator[str]:
    labels = executor.get("podMetadata", {}).get("labels", {})
    if labels.get(QUEUE, "") not in {"", *found.names("LocalQueue")}:
        yield f"queue {labels[QUEUE]!r}: no LocalQueue of this name"
    elif labels.get(QUEUE) and not found.cluster_queue(labels[QUEUE]):
        yield f"queue {labels[QUEUE]!r}: no ClusterQueue behind it"
    if labels.get(PRIORITY, "") not in {"", *found.names("WorkloadPriorityClass")}:
        yield f"priority {labels[PRIORITY]!r}: no WorkloadPriorityClass of this name"
    user = executor.get("securityContext", {}).get("runAsUser")
    if str(user) != str(USER):
        yield f"user {user}: must be the images' ({USER})"
    if not gpus:
        return
    most = found.most_gpus(labels.get(QUEUE, ""))
    if gpus > most:
        yield f"{gpus} GPUs: more than the quota ever admits ({most})"
    selector = executor.get("nodeSelector", {}).get("labels", {})
    for flavor in found.flavors(labels.get(QUEUE, ""), selector):
        yield from _fits(
            executor,
            selector,
            flavor["spec"].get("nodeLabels", {}),
            flavor["spec"].get("nodeTaints", []),
        )
    for place, node_labels, taints in node_pools(pools):
        if ("gke-spot" in str(taints)) == any("spot" in key for key in selector):
            yield from (
                f"{place}: {text}" for text in _fits(executor, selector, node_labels, taints)
            )


def _fits(
    executor: Document, selector: Document, labels: Document, taints: Sequence[Document]
) -> Iterator[str]:
    """Would a pod run on a node with these labels and taints?"""
    for key, value in selector.items():
        if key in labels and labels[key] != value:
            yield f"node selector {key}={value}: the nodes have {key}={labels[key]}"
        if key not in labels:
            yield f"node selector {key}={value}: no nodes have this label"
    for taint in taints:
        if not any(_tolerates(toleration, taint) for toleration in executor.get("tolerations", [])):
            yield f"taint {taint['key']}={taint['value']}:{taint['effect']}: not tolerated"


def _tolerates(toleration: Document, taint: Document) -> bool:
    same = (
        toleration.get("key") == taint["key"]
        and toleration.get("effect", taint["effect"]) == taint["effect"]
    )
    return same and (
        toleration.get("operator") == "Exists" or toleration.get("value") == taint["value"]
    )


class Manifests:
    """A rendered overlay, by kind and name."""

    def __init__(self, documents: Sequence[Document]) -> None:
        """Take the documents."""
        self.documents = [document for document in documents if document]

    def names(self, kind: str) -> set[str]:
        """The names of all resources of a kind."""
        return {str(document["metadata"]["name"]) for document in self.of(kind)}

    def of(self, kind: str) -> list[Document]:
        """All resources of a kind."""
        return [document for document in self.documents if document["kind"] == kind]

    def cluster_queue(self, queue: str) -> list[Document]:
        """The ClusterQueue behind a LocalQueue, if there is one."""
        behind = {
            item["spec"]["clusterQueue"]
            for item in self.of("LocalQueue")
            if item["metadata"]["name"] == queue
        }
        return [item for item in self.of("ClusterQueue") if item["metadata"]["name"] in behind]

    def flavors(self, queue: str, selector: Document) -> list[Document]:
        """The flavors a pod may get.

        They are its queue's; without a queue those for spot nodes or for the others.
        """
        groups = [
            group for item in self.cluster_queue(queue) for group in item["spec"]["resourceGroups"]
        ]
        names = {flavor["name"] for group in groups for flavor in group["flavors"]}
        if names:
            return [item for item in self.of("ResourceFlavor") if item["metadata"]["name"] in names]
        spot = any("spot" in key for key in selector)
        return [
            item
            for item in self.of("ResourceFlavor")
            if ("spot" in item["metadata"]["name"]) == spot
        ]

    def most_gpus(self, queue: str) -> int:
        """The most GPUs that a queue, or else the namespace's quota, admits at once."""
        quotas = [
            int(item["spec"]["hard"].get(f"requests.{GPU}", 0)) for item in self.of("ResourceQuota")
        ]
        for item in self.cluster_queue(queue):
            flavors = [
                flavor for group in item["spec"]["resourceGroups"] for flavor in group["flavors"]
            ]
            resources = [
                entry for flavor in flavors for entry in flavor["resources"] if entry["name"] == GPU
            ]
            quotas.append(sum(int(entry["nominalQuota"]) for entry in resources))
        return min(quotas, default=0)


def node_pools(commands: str) -> Iterator[tuple[str, dict[str, str], list[dict[str, str]]]]:
    """Name, labels and taints of the node pools that commands make."""
    for line in commands.splitlines():
        words = shlex.split(line)
        if "create" not in words:
            continue
        options = dict(zip(words, words[1:], strict=False))
        labels = dict(pair.split("=", 1) for pair in options["--node-labels"].split(","))
        # GKE adds these itself
        labels["cloud.google.com/gke-accelerator"] = re.sub(
            r"type=([^,]*).*", r"\1", options["--accelerator"]
        )
        if "--spot" in words:
            labels["cloud.google.com/gke-spot"] = "true"
        taints = [
            re.fullmatch(r"([^=]+)=([^:]*):(\w+)", text)
            for text in options["--node-taints"].split(",")
        ]
        named = [
            dict(zip(("key", "value", "effect"), match.groups(), strict=True))
            for match in taints
            if match
        ]
        yield words[words.index("create") + 1], labels, named


def main() -> int:
    """Print what does not fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--manifests", required=True, type=Path)
    parser.add_argument("--pipelines", required=True, type=Path, nargs="+")
    parser.add_argument("--node-pools", type=Path)
    arguments = parser.parse_args()
    manifests = list(yaml.safe_load_all(arguments.manifests.read_text(encoding="utf-8")))
    pools = arguments.node_pools.read_text(encoding="utf-8") if arguments.node_pools else ""
    found = [
        f"{path.name}, {arguments.manifests.name}: {problem}"
        for path in arguments.pipelines
        for problem in problems(
            list(yaml.safe_load_all(path.read_text(encoding="utf-8"))), manifests, pools
        )
    ]
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
