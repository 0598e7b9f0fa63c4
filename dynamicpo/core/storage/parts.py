"""Parts of files, and the threads that transfer them."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Unit = TypeVar("Unit")

# Transfers wait for the network most of the time. More threads meet the Google client's pool of ten
# connections, which warns and discards the rest.
NUM_THREADS = 8
# A part is in memory while it is on its way. S3 takes parts of at least 5 MiB.
PART_BYTES = 8 << 20
# S3's limit, with some distance.
_MOST_PARTS = 9000


def num_part_bytes(size: int) -> int:
    """The size of a file's parts, of which a store takes only so many."""
    num_needed = -(-size // _MOST_PARTS)
    return max(PART_BYTES, num_needed)


def read_part(path: Path, start: int, end: int) -> bytes:
    """The bytes of a file from `start` to before `end`."""
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(end - start)


def in_threads(work: Callable[[Unit], None], items: Iterable[Unit]) -> None:
    """Call `work` with each item, and raise the first of its errors; then the rest is not begun."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            # `result` raises what the thread has raised; an executor alone keeps it to itself.
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
