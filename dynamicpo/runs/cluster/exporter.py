"""Drift metrics for Prometheus: `python3 -m dynamicpo.runs.cluster.exporter PREFIX`.

A pipeline's tasks end before anything could scrape them. This process stays, and serves the metrics
of the newest drift task below a prefix: gs://, s3://, minio:// or a folder. Each is a gauge;
`dynamicpo_drift_result_time_seconds` is the time of the result.
"""

import argparse
import json
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core import storage
from dynamicpo.core.errors import DataError

log = logging.getLogger(__name__)

# KFP numbers the tasks of one component, and in the store puts a random number behind the task.
METRICS_FILE = re.compile(r"(^|/)monitor-drift(-\d+)?/(.+/)?metrics$")
DEFAULT_PORT = 9090
DEFAULT_INTERVAL_SECONDS = 300


class DriftMetrics(NamedTuple):
    """The result of a drift task: its time, in epoch seconds, and its metrics."""

    time: float
    metrics: Mapping[str, float]


def newest_result(source: str) -> DriftMetrics | None:
    """The result of the newest drift task below a folder or prefix.

    Raises:
        DataError: The store can't be read, or a file that is not the metrics of a drift task.
    """
    file = _newest_file(source)
    if file is None:
        return None
    try:
        content = json.loads(storage.read_bytes(file.uri))
        # An AttributeError: JSON that is no object.
        entries = content.items()
        metrics = {str(name): value for name, value in entries if _is_number(value)}
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise DataError(
            f"{file.uri}: must be a JSON object of numbers, but {error}. Run the drift task again."
        ) from error
    return DriftMetrics(file.modified, metrics)


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float)) and math.isfinite(value)


def _newest_file(source: str) -> storage.FoundFile | None:
    # A prefix before its first run is no failure.
    found = storage.find_files(source) if storage.exists(source) else []
    files = [file for file in found if METRICS_FILE.search(Path(file.uri).as_posix())]
    # By name where times are equal, so that the answer does not depend on the store's order.
    return max(files, key=lambda file: (file.modified, file.uri), default=None)


def exposition(result: DriftMetrics | None, failed: bool = False) -> str:
    """Prometheus' text format of a result, and of whether it could be read."""
    gauges: list[tuple[str, float]] = [("dynamicpo_drift_up", int(not failed))]
    if result:
        gauges.append(("dynamicpo_drift_result_time_seconds", result.time))
        for name, value in sorted(result.metrics.items()):
            metric = re.sub(r"[^a-zA-Z0-9_]", "_", name)
            gauges.append((f"dynamicpo_drift_{metric}", float(value)))
    lines = []
    for name, value in gauges:
        lines.append(f"# TYPE {name} gauge")
        lines.append(f"{name} {value}")
    return "\n".join(lines) + "\n"


class _Page:
    """The page `/metrics`, made anew when it is asked for, but not more often than each interval.

    Prometheus scrapes more often than a drift task ends, and listing a bucket costs money.
    """

    def __init__(self, source: str, interval_seconds: float) -> None:
        self._source = source
        self._interval_seconds = interval_seconds
        self._expires = 0.0
        self._text = ""

    def text(self) -> str:
        if time.monotonic() >= self._expires:
            self._text = _read_exposition(self._source)
            self._expires = time.monotonic() + self._interval_seconds
        return self._text


def _read_exposition(source: str) -> str:
    try:
        return exposition(newest_result(source))
    # The gauge `up` carries the failure: an exporter that ended could not tell of it.
    except DataError as error:
        log.warning("%s", error)
        return exposition(None, failed=True)


def make_server(
    source: str, port: int, interval_seconds: float, host: str = ""
) -> ThreadingHTTPServer:
    """The HTTP server of `/metrics` and `/healthz`.

    Args:
        source: Folder or prefix of the pipelines' artifacts.
        port: Its port (0: a free one).
        interval_seconds: The source is read no more often than this.
        host: Its address (default: all of the machine's).
    """
    page = _Page(source, interval_seconds)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._reply(200, page.text())
            elif self.path == "/healthz":
                self._reply(200, "ok\n")
            else:
                self._reply(404, "not found\n")

        def _reply(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            # The version of Prometheus' text format.
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            length = str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            # The standard library prints every request on stderr.
            log.debug(format, *arguments)

    return ThreadingHTTPServer((host, port), Handler)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until stopped."""
    description = str(__doc__).splitlines()[0]
    parser = argparse.ArgumentParser(
        prog="dynamicpo.runs.cluster.exporter", description=description
    )
    parser.add_argument("source", help="folder or prefix of the pipelines' artifacts")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument(
        "--every-seconds",
        type=float,
        default=DEFAULT_INTERVAL_SECONDS,
        help="read the source no more often (default: 300)",
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s")
    server = make_server(arguments.source, arguments.port, arguments.every_seconds)
    server.serve_forever()


if __name__ == "__main__":
    main()
