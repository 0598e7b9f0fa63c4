"""The last word of a run: asked of an HTTP server that answers as the API server does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from kubernetes import client

from dynamicpo import __version__
from dynamicpo.runs.cluster.run_summary import summarize_run


def pod(name: str, phase: str, task: str, **ended: Any) -> dict[str, Any]:
    state = {"terminated": ended} if ended else {"running": {}}
    status = {
        "name": "main",
        "state": state,
        "image": "i",
        "imageID": "i",
        "ready": False,
        "restartCount": 0,
    }
    return {
        "metadata": {"name": name, "annotations": {"workflows.argoproj.io/node-name": task}},
        "spec": {
            "nodeName": "gpu-node",
            "containers": [{"name": "main", "image": "registry/dynamicpo@sha256:0"}],
        },
        "status": {"phase": phase, "containerStatuses": [status]},
    }


PODS = [
    pod("a-prepare", "Succeeded", "prepare-data", exitCode=0, reason="Completed"),
    pod("b-train", "Failed", "train-preferences", exitCode=137, reason="OOMKilled"),
    pod("c-gone", "Running", "evaluate"),
]
LOGS = {"a-prepare": "10 rows\n", "b-train": "step 1\n```\n<script>alert(1)</script>\n"}


class Api(BaseHTTPRequestHandler):
    refuse = False

    def do_GET(self) -> None:
        url = urlparse(self.path)
        name = url.path.split("/")[-2]
        if self.refuse:
            self.answer(403, json.dumps({"reason": "Forbidden", "message": "pods is forbidden"}))
        elif url.path.endswith("/log"):
            assert parse_qs(url.query)["container"] == ["main"]
            self.answer(200 if name in LOGS else 404, LOGS.get(name, "{}"), "text/plain")
        else:
            wanted = parse_qs(url.query)["labelSelector"] == ["pipeline/runid=run-1"]
            self.answer(200, json.dumps({"kind": "PodList", "items": PODS if wanted else []}))

    def answer(self, code: int, text: str, kind: str = "application/json") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Any]:
    server = HTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    configuration = client.Configuration()
    configuration.host = f"http://127.0.0.1:{server.server_port}"
    yield client.CoreV1Api(client.ApiClient(configuration))
    server.shutdown()


def summarized(folder: Path, api: Any, uri: str = "") -> tuple[dict[str, Any], str]:
    status = {"state": "FAILED", "error_message": "task failed"}
    summarize_run("run-1", status, folder / "summary", folder / "logs.md", api, uri)
    return json.loads((folder / "summary" / "summary.json").read_text()), (
        folder / "logs.md"
    ).read_text()


def test_names_every_pod_with_its_reason(api: Any, tmp_path: Path):
    summary, _ = summarized(tmp_path, api)
    assert (summary["run"], summary["state"], summary["error_message"]) == (
        "run-1",
        "FAILED",
        "task failed",
    )
    ends = {
        item["task"]: (item["phase"], item["reason"], item["exit_code"]) for item in summary["pods"]
    }
    assert ends == {
        "prepare-data": ("Succeeded", "", 0),
        "train-preferences": ("Failed", "OOMKilled", 137),
        "evaluate": ("Running", "", None),
    }
    assert "problem" not in summary


def test_keeps_the_logs_with_failed_pods_first(api: Any, tmp_path: Path):
    _, logs = summarized(tmp_path, api)
    assert logs.index("## train-preferences") < logs.index("## prepare-data")
    assert "Failed, OOMKilled, exit code 137, gpu-node" in logs
    assert "    10 rows" in logs
    assert "(no log: " in logs


def test_a_log_can_not_leave_its_block(api: Any, tmp_path: Path):
    _, logs = summarized(tmp_path, api)
    assert "    <script>" in logs and "    ```" in logs
    assert not [line for line in logs.splitlines() if line.startswith(("<", "`"))]


def test_a_refusal_is_named_and_the_summary_still_written(
    api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Api, "refuse", True)
    summary, logs = summarized(tmp_path, api)
    assert summary["pods"] == [] and "403" in summary["problem"]
    assert summary["state"] == "FAILED" and summary["problem"] in logs


def test_metrics_and_images_are_in_the_summary(api: Any, tmp_path: Path):
    """The API tells no metric of a run: whoever asks later reads this file."""
    run = tmp_path / "store" / "training" / "run-1"
    for task, model, value in (("evaluate", "sft", 0.25), ("evaluate-2", "dmpo", 0.5)):
        (run / task / "0" / "evaluation" / model).mkdir(parents=True)
        path = run / task / "0" / "evaluation" / model / "metrics.json"
        path.write_text(json.dumps({"test_hit_ratio_at_1": value}))
    summary, _ = summarized(tmp_path, api, str(run / "summarize-run" / "0" / "summary"))
    assert summary["metrics"] == {
        "sft": {"test_hit_ratio_at_1": 0.25},
        "dmpo": {"test_hit_ratio_at_1": 0.5},
    }
    assert (summary["images"], summary["package_version"]) == (
        ["registry/dynamicpo@sha256:0"],
        __version__,
    )
    assert "problem" not in summary


@pytest.mark.parametrize("uri", ["/nowhere/run-1/x/summary", "minio://bucket/run-1/x/summary"])
def test_a_store_that_can_not_be_read_is_named(api: Any, tmp_path: Path, uri: str):
    summary, logs = summarized(tmp_path, api, uri)
    assert summary["metrics"] == {} and summary["problem"].startswith(
        "The metrics could not be read: "
    )
    assert len(summary["pods"]) == 3 and summary["problem"] in logs


def test_outside_a_cluster_it_says_so(tmp_path: Path):
    summary, _ = summarized(tmp_path, None)
    assert summary["problem"].startswith("The pods could not be read")
