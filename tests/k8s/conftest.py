"""The rendered overlays."""

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent.name for path in (K8S / "overlays").glob("*/kustomization.yaml"))
GPU_OVERLAYS = [name for name in OVERLAYS if name != "kind"]
Documents = list[dict[str, Any]]


@pytest.fixture(scope="session")
def kubectl() -> str:
    """The path of kubectl, or a skip."""
    found = shutil.which(
        "kubectl", path=f"{ROOT / 'build' / 'tools'}{os.pathsep}{os.environ['PATH']}"
    )
    if found is None:
        pytest.skip(
            "no kubectl on PATH or in build/tools: overlays can't be rendered on this machine"
        )
    return found


@pytest.fixture(scope="session")
def render(kubectl: str) -> Callable[[str], Documents]:
    """Renders an overlay, once."""

    @functools.cache
    def run(overlay: str) -> Documents:
        text = subprocess.run(
            [kubectl, "kustomize", str(K8S / "overlays" / overlay)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return [document for document in yaml.safe_load_all(text) if document]

    return run


def of_kind(documents: Documents, kind: str) -> dict[str, dict[str, Any]]:
    """The resources of a kind by name."""
    return {item["metadata"]["name"]: item for item in documents if item["kind"] == kind}
