"""Drift figures as Prometheus reads them, from a folder and from an object store."""

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicpo.core import storage
from dynamicpo.core.errors import DataError
from dynamicpo.runs.cluster.exporter import DriftMetrics, exposition, make_server, newest_result

FIRST, SECOND = (
    '{"drifted": 0.0, "drifted_share": 0.2}',
    '{"drifted": 1.0, "popularity_distance": 0.25, "x": "text"}',
)


def write(root: Path, run: str, text: str, task: str = "monitor-drift", age: float = 0) -> None:
    path = root / "training" / run / task / "17" / "metrics"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "run-a", SECOND)
    write(tmp_path, "run-b", FIRST, age=1000)
    write(tmp_path, "run-c", '{"train_rows": 5}', task="prepare-data")
    return tmp_path


def test_the_newest_drift_task_counts(folder: Path):
    result = newest_result(str(folder))
    assert result is not None
    assert result[1] == {"drifted": 1.0, "popularity_distance": 0.25}
    assert abs(result[0] - time.time()) < 60


def test_the_same_from_the_object_store(object_store: str, folder: Path, tmp_path: Path):
    prefix = f"{object_store}/exporter-{tmp_path.name}"
    assert newest_result(prefix) is None
    for run in ("run-b", "run-c", "run-a"):  # the store's time is that of the upload
        storage.put(folder / "training" / run, f"{prefix}/training/{run}")
    result = newest_result(prefix)
    assert result is not None and result[1] == {"drifted": 1.0, "popularity_distance": 0.25}


def test_text_format():
    assert exposition(DriftMetrics(5.5, {"drifted": True, "a-b": 0.25})) == (
        "# TYPE dynamicpo_drift_up gauge\ndynamicpo_drift_up 1\n"
        "# TYPE dynamicpo_drift_result_time_seconds gauge\n"
        "dynamicpo_drift_result_time_seconds 5.5\n"
        "# TYPE dynamicpo_drift_a_b gauge\ndynamicpo_drift_a_b 0.25\n"
        "# TYPE dynamicpo_drift_drifted gauge\ndynamicpo_drift_drifted 1.0\n"
    )


def test_a_file_that_is_no_figures_is_named(tmp_path: Path):
    write(tmp_path, "run-a", "[1]")
    with pytest.raises(DataError, match=r"run-a/monitor-drift/17/metrics: must be a JSON object"):
        newest_result(str(tmp_path))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    exporter = make_server(str(tmp_path), 0, 0, host="127.0.0.1")
    threading.Thread(target=exporter.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{exporter.server_port}"
    exporter.shutdown()
    exporter.server_close()


def get(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def test_serves_what_is_there_and_says_when_it_can_not_read(address: str, tmp_path: Path):
    assert get(f"{address}/healthz") == "ok\n"
    assert get(f"{address}/metrics") == "# TYPE dynamicpo_drift_up gauge\ndynamicpo_drift_up 1\n"
    write(tmp_path, "run-a", FIRST, age=100)
    assert "dynamicpo_drift_drifted_share 0.2\n" in get(f"{address}/metrics")
    write(tmp_path, "run-b", "not JSON")
    assert get(f"{address}/metrics") == "# TYPE dynamicpo_drift_up gauge\ndynamicpo_drift_up 0\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{address}/other")
