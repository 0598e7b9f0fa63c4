"""What every test may use."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_stack
from types import FrameType, SimpleNamespace
from unittest.mock import patch

import pytest
from kfp.dsl import pipeline_task

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parents[1]
IMAGE = os.environ.get("DYNAMICPO_IMAGE", "dynamicpo-python:cpu")
IN_IMAGE = (
    "dynamicpo",
    "components",
    "pipelines",
    "requirements.lock",
    "requirements-data.lock",
    "images",
)
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def quick_stacks() -> Iterator[None]:
    """kfp asks for each task's caller; here it learns that without the sources of the whole stack.

    To find them Python goes through all modules, of which a process of tests has thousands: a
    compilation took ten seconds and more. No other process of ours is like that.
    """
    with patch.object(pipeline_task, "inspect", SimpleNamespace(stack=_stack)):
        yield


def _stack() -> list[tuple[FrameType, str, int, str]]:
    """The beginning of `inspect.stack()`'s entries: frame, file, line, function."""
    return [
        (frame, frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in walk_stack(sys._getframe(1))
    ]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real rows and schemas beside the checkout.

    A test that needs them is skipped where they are absent.
    """
    if not SHARED.is_dir():
        pytest.skip(
            "no ../shared beside the checkout: real rows and schemas are not on this machine"
        )
    return SHARED


@pytest.fixture(scope="session")
def image() -> str:
    """The CPU image of these sources.

    Without one a test is skipped, or fails where DYNAMICPO_IMAGE promises one.
    """
    problem = _image_problem()
    if problem and "DYNAMICPO_IMAGE" in os.environ:
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)
    return IMAGE


def _image_problem() -> str:
    program = shutil.which("docker")
    if (
        program is None
        or subprocess.run([program, "info"], capture_output=True, check=False).returncode
    ):
        return "no Docker engine answers on this machine"
    found = subprocess.run(
        [program, "image", "inspect", IMAGE], capture_output=True, text=True, check=False
    )
    if found.returncode:
        return f"no image {IMAGE}: run `make images`"
    revision = (json.loads(found.stdout)[0]["Config"]["Labels"] or {}).get(
        "org.opencontainers.image.revision", ""
    )
    command = ["git", "diff", "--quiet", revision, "--", *IN_IMAGE]
    if subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode:
        return f"{IMAGE} is of other sources ({revision[:12]}): commit, then run `make images`"
    return ""
