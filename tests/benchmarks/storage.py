"""Rates of transfers, checksums included, beside those of plain client calls.

Run `python -m tests.benchmarks.storage [--rounds 3]`.

Folders of 400 files of 1 MB and of one of 1 GB go up and down: by our functions, and by the
client libraries' own with the same number of threads, in turns against the same server. For
Google Cloud Storage that is `transfer_manager` and `upload_from_filename`, for S3 boto3's
`upload_file` and `download_file`. The servers run on this machine and share its cores: rates are
for comparison only. Memory is the peak of the process above what it had before.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dynamicpo.core import storage
from dynamicpo.core.storage.parts import NUM_THREADS
from tests.benchmarks.measure import peak_bytes, seconds
from tests.fixtures import object_stores

REPORT = Path("build/benchmarks/storage.json")
MB = 1_000_000
LOADS = {"400 x 1 MB": (400, MB), "1 x 1 GB": (1, 1000 * MB)}
SERVERS = {"gs": object_stores.fake_gcs, "minio": object_stores.seaweedfs}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Rates of transfers")
    parser.add_argument("--rounds", type=int, default=3, help="repeats of every measure")
    parser.add_argument("--stores", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    options = parser.parse_args(argv)
    lines = []
    for scheme in options.stores:
        for load in LOADS:
            lines += measured(scheme, load, options.rounds)
            for line in lines[-2:]:
                print(
                    f"{line['store']:6} {line['load']:11} {line['direction']:5} "
                    f"ours {line['ours']:6.0f} MB/s  plain {line['plain']:6.0f} MB/s  "
                    f"{line['share']:4.0%}  peak {line['peak_mb']:4.0f} MB",
                    flush=True,
                )
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(lines, indent=1) + "\n")
    return 0


def measured(scheme: str, load: str, rounds: int) -> list[dict[str, object]]:
    """Rates in MB/s (medians), and the median over rounds of their quotient."""
    number, size = LOADS[load]
    took: dict[tuple[str, str], list[float]] = {}
    peaks: dict[str, list[float]] = {"up": [], "down": []}
    with tempfile.TemporaryDirectory() as folder, SERVERS[scheme]() as url:
        made = make_files(Path(folder) / "made", number, size)
        back = Path(folder) / "back"
        os.environ.update(object_stores.environment(scheme, url))
        plain_up, plain_down = PLAIN[scheme]()
        uri = f"{scheme}://bucket/ours"
        # The library is imported, and a client made, before the clock runs.
        storage.exists(uri)
        for round_number in range(rounds):
            work: dict[tuple[str, str], Callable[[], object]] = {
                ("up", "ours"): lambda: storage.put(made, uri),
                ("up", "plain"): lambda: plain_up(made, "plain"),
                ("down", "ours"): lambda: storage.fetch(uri, back),
                ("down", "plain"): lambda: plain_down("plain", made, back / "plain"),
            }
            # Who comes first may find the server cold.
            order = list(work.items())
            if round_number % 2:
                order = [order[index] for index in (1, 0, 3, 2)]
            for key, run in order:
                took.setdefault(key, []).append(seconds(run))
                shutil.rmtree(back, ignore_errors=True)
            storage.delete(uri)
            storage.delete(f"{scheme}://bucket/plain")
        peaks["up"].append(peak_bytes(lambda: storage.put(made, uri)))
        peaks["down"].append(peak_bytes(lambda: storage.fetch(uri, back)))
    return [
        {
            "store": scheme,
            "load": load,
            "direction": direction,
            "ours": number * size / MB / statistics.median(took[direction, "ours"]),
            "plain": number * size / MB / statistics.median(took[direction, "plain"]),
            "share": statistics.median(
                plain / ours
                for ours, plain in zip(
                    took[direction, "ours"], took[direction, "plain"], strict=True
                )
            ),
            "peak_mb": max(peaks[direction]) / MB,
        }
        for direction in ("up", "down")
    ]


def make_files(folder: Path, number: int, size: int) -> Path:
    folder.mkdir(parents=True)
    block = os.urandom(MB)
    for index in range(number):
        with (folder / f"{index:03}.bin").open("wb") as stream:
            for _ in range(size // MB):
                stream.write(block)
    return folder


Transfer = Callable[..., None]


def plain_google() -> tuple[Transfer, Transfer]:
    from google.cloud import storage as google
    from google.cloud.storage import transfer_manager

    bucket = google.Client().bucket("bucket")
    threads = {"worker_type": transfer_manager.THREAD, "max_workers": NUM_THREADS}

    def up(folder: Path, prefix: str) -> None:
        files = sorted(folder.iterdir())
        pairs = [(str(path), bucket.blob(f"{prefix}/{path.name}")) for path in files]
        if len(pairs) == 1:
            pairs[0][1].upload_from_filename(pairs[0][0])
        else:
            transfer_manager.upload_many(pairs, raise_exception=True, **threads)

    def down(prefix: str, like: Path, folder: Path) -> None:
        folder.mkdir(parents=True)
        names = [path.name for path in sorted(like.iterdir())]
        pairs = [(bucket.blob(f"{prefix}/{name}"), str(folder / name)) for name in names]
        if len(pairs) == 1:
            transfer_manager.download_chunks_concurrently(*pairs[0], **threads)
        else:
            transfer_manager.download_many(pairs, raise_exception=True, **threads)

    return up, down


def plain_s3() -> tuple[Transfer, Transfer]:
    import boto3
    from boto3.s3.transfer import TransferConfig

    client = boto3.client(
        "s3",
        endpoint_url=os.environ["MINIO_ENDPOINT"],
        region_name="minio",
        aws_access_key_id=object_stores.ACCESS_KEY,
        aws_secret_access_key=object_stores.SECRET_KEY,
    )

    @contextmanager
    def settings(num_files: int) -> Iterator[tuple[ThreadPoolExecutor, TransferConfig]]:
        # As many threads in all: for files, or for the parts of one.
        many = num_files > 1
        config = TransferConfig(use_threads=not many, max_concurrency=NUM_THREADS)
        with ThreadPoolExecutor(NUM_THREADS if many else 1) as pool:
            yield pool, config

    def up(folder: Path, prefix: str) -> None:
        files = sorted(folder.iterdir())
        with settings(len(files)) as (pool, config):

            def send(path: Path) -> None:
                client.upload_file(str(path), "bucket", f"{prefix}/{path.name}", Config=config)

            list(pool.map(send, files))

    def down(prefix: str, like: Path, folder: Path) -> None:
        folder.mkdir(parents=True)
        names = [path.name for path in sorted(like.iterdir())]
        with settings(len(names)) as (pool, config):

            def fetch(name: str) -> None:
                client.download_file(
                    "bucket", f"{prefix}/{name}", str(folder / name), Config=config
                )

            list(pool.map(fetch, names))

    return up, down


PLAIN = {"gs": plain_google, "minio": plain_s3}

if __name__ == "__main__":
    raise SystemExit(main())
