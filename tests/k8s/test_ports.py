"""What pods of a pipeline may reach of Kubeflow Pipelines, against the ports of KFP's pods."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.conftest import OVERLAYS, Documents, of_kind

Render = Callable[[str], Documents]
overlays = pytest.mark.parametrize("overlay", OVERLAYS)

# Services that a pipeline's pods talk to in KFP's namespace (manifests/kustomize of 2.17), with
# the Service's port, the pod's (its targetPort) and who asks. Policies match the pod's.
KFP_PORTS = [
    ("ml-pipeline", 8887, 8887, "driver and launcher: cache and tasks, gRPC"),
    ("ml-pipeline", 8888, 8888, "driver: API, HTTP"),
    ("metadata-grpc-service", 8080, 8080, "driver and launcher: metadata store"),
    ("seaweedfs", 9000, 8333, "launcher: artifacts; Argo: the log of every pod"),
    ("minio-service", 9000, 9000, "the same before KFP 2.15, which brought MinIO"),
]
WORKFLOW_POD = {"workflows.argoproj.io/workflow": "training-x", "pipelines.kubeflow.org/v2": "true"}


def is_selected(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Does a pod with these labels match? For the two forms that the policies use."""
    named = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    assert all(item["operator"] in ("Exists", "In") for item in expressions)
    return all(labels.get(key) == value for key, value in named.items()) and all(
        labels.get(item["key"]) in item.get("values", [labels.get(item["key"], "")])
        for item in expressions
    )


def open_ports(documents: Documents, namespace: str) -> set[int]:
    """The TCP ports that a pipeline's pod may reach on every pod of a namespace."""
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    rules = [
        rule
        for policy in of_kind(documents, "NetworkPolicy").values()
        if is_selected(policy["spec"]["podSelector"], WORKFLOW_POD)
        for rule in policy["spec"].get("egress", [])
        if peer in rule["to"]
    ]
    return {
        port["port"] for rule in rules for port in rule["ports"] if port.get("protocol") == "TCP"
    }


@overlays
def test_every_port_of_kubeflow_pipelines_is_open_and_no_other(render: Render, overlay: str):
    assert open_ports(render(overlay), "kubeflow") == {pod for _, _, pod, _ in KFP_PORTS}


def test_a_policy_for_other_pods_opens_nothing():
    assert is_selected({}, WORKFLOW_POD)
    assert is_selected(
        {"matchExpressions": [{"key": "workflows.argoproj.io/workflow", "operator": "Exists"}]},
        WORKFLOW_POD,
    )
    assert not is_selected({"matchLabels": {"app": "drift-exporter"}}, WORKFLOW_POD)
    assert not is_selected(
        {"matchExpressions": [{"key": "jobset.sigs.k8s.io/jobset-name", "operator": "Exists"}]},
        WORKFLOW_POD,
    )


@overlays
def test_the_namespace_keeps_the_label_of_its_profile(render: Render, overlay: str):
    """SeaweedFS's policy lets in namespaces with the label of Kubeflow's profiles."""
    for document in render(overlay):
        part_of = document["metadata"].get("labels", {}).get("app.kubernetes.io/part-of")
        assert part_of == (None if document["kind"] == "Namespace" else "dynamicpo")
