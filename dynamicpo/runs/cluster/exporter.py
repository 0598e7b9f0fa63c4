"""Drift figures for Prometheus: `python3 -m dynamicpo.runs.cluster.exporter gs://bucket/pipelines`.

A pipeline's tasks end before anything could scrape them. This stays, and serves what the newest drift task below a
prefix has written. Every figure is a gauge; `dynamicpo_drift_result_time_seconds` says how old it is.
"""

import argparse
import json
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage import is_remote

log = logging.getLogger(__name__)

METRICS = re.compile(r"(^|/)monitor-drift(-\d+)?/(.+/)?metrics$")
Result = tuple[float, dict[str, Any]]


def newest(source: str) -> Result | None:
    """When the newest drift task below a folder or prefix ended (epoch seconds), and its figures.

    Raises:
        DataError: The store can't be read, or what was found is not the figures of a drift task.
    """
    found = _remote(source) if is_remote(source) else _local(Path(source))
    if found is None:
        return None
    name, ended, read = found
    try:
        figures = json.loads(read())
        return ended, {str(key): value for key, value in figures.items() if _is_number(value)}
    except (ValueError, AttributeError) as error:
        raise DataError(
            f"{name}: must be a JSON object of numbers, but {error}. Run the drift task again."
        ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and math.isfinite(value)


def _local(folder: Path) -> tuple[str, float, Callable[[], bytes]] | None:
    files = [
        path
        for path in folder.rglob("metrics")
        if path.is_file() and METRICS.search(path.as_posix())
    ]
    if not files:
        return None
    path = max(files, key=lambda file: (file.stat().st_mtime, str(file)))
    return str(path), path.stat().st_mtime, path.read_bytes


def _remote(uri: str) -> tuple[str, float, Callable[[], bytes]] | None:
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage

    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    try:
        blobs = storage.Client().list_blobs(bucket, prefix=prefix)
        found = [blob for blob in blobs if METRICS.search(blob.name)]
    except (GoogleAPIError, GoogleAuthError, OSError) as error:
        raise DataError(
            f"{uri}: must be readable, but {error}. Check the bucket and the account's role."
        ) from error
    if not found:
        return None
    blob = max(found, key=lambda item: (item.updated, item.name))
    return f"gs://{bucket}/{blob.name}", blob.updated.timestamp(), blob.download_as_bytes


def exposition(result: Result | None, problem: str = "") -> str:
    """Prometheus' text format."""
    lines = ["# TYPE dynamicpo_drift_up gauge", f"dynamicpo_drift_up {int(not problem)}"]
    ended, figures = result or (math.nan, {})
    if result:
        lines += [
            "# TYPE dynamicpo_drift_result_time_seconds gauge",
            f"dynamicpo_drift_result_time_seconds {ended}",
        ]
    for name, value in sorted(figures.items()):
        metric = f"dynamicpo_drift_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}"
        lines += [f"# TYPE {metric} gauge", f"{metric} {float(value)}"]
    return "\n".join(lines) + "\n"


def server(source: str, port: int, every_seconds: float, host: str = "") -> ThreadingHTTPServer:
    """The HTTP server. Looks at the source when it is scraped, but not more often than `every_seconds`."""
    state: dict[str, Any] = {"until": 0.0, "text": ""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics" and time.monotonic() >= state["until"]:
                state.update(text=_look(source), until=time.monotonic() + every_seconds)
            texts = {"/metrics": state["text"], "/healthz": "ok\n"}
            body = texts.get(self.path, "not found\n").encode()
            self.send_response(200 if self.path in texts else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            log.debug(format, *arguments)

    return ThreadingHTTPServer((host, port), Handler)


def _look(source: str) -> str:
    try:
        return exposition(newest(source))
    except DataError as error:
        log.warning("%s", error)
        return exposition(None, str(error))


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(
        prog="dynamicpo.runs.cluster.exporter", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("source", help="folder or gs:// prefix of the pipelines' artifacts")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument(
        "--every-seconds", type=float, default=300, help="look no more often (default: 300)"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s")
    server(arguments.source, arguments.port, arguments.every_seconds).serve_forever()


if __name__ == "__main__":
    main()
