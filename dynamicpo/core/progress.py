"""Progress of long work: a bar on a terminal, plain lines elsewhere (done, rate, time left)."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
log = logging.getLogger(__name__)


class Progress:
    """Counts steps of a known total.

    Args:
        label: The name of the work.
        total: The number of units.
        unit: The name of one unit.
        every_seconds: The shortest time between two plain lines.
    """

    def __init__(
        self, label: str, total: int, unit: str = "rows", every_seconds: float = 10.0
    ) -> None:
        """Start the clock."""
        self._label = label
        self._total = total
        self._unit = unit
        self._every_seconds = every_seconds
        self._done = 0
        self._done_before = 0
        # A wall clock may be set back while the work is going on.
        self._start_seconds = time.monotonic()
        self._last_line_seconds = self._start_seconds
        # A log file or a pod's log would keep every state of a bar as a line of its own.
        # Of several processes, one shows progress.
        terminal = sys.stderr.isatty() and log.isEnabledFor(logging.WARNING)
        self._bar = tqdm(
            total=total,
            desc=label,
            unit=f" {unit}",
            disable=not terminal,
            file=sys.stderr,
            leave=False,
        )

    def skip(self, count: int) -> None:
        """Count units that an earlier attempt has done: they say nothing of the rate."""
        self._done += count
        self._done_before += count
        self._bar.update(count)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units; `note` stands behind the line."""
        self._done += count
        self._bar.update(count)
        if note:
            self._bar.set_postfix_str(note)
        now = time.monotonic()
        waited = now - self._last_line_seconds
        is_due = waited >= self._every_seconds
        if self._bar.disable and is_due:
            self._last_line_seconds = now
            self._log_line(now, note)

    @property
    def seconds_left(self) -> float:
        """Seconds to the end at the rate so far; infinity before any unit is done."""
        rate = self._rate(time.monotonic())
        return (self._total - self._done) / rate if rate else float("inf")

    def _rate(self, now: float) -> float:
        # The first line may come within the clock's resolution.
        seconds = max(now - self._start_seconds, 1e-9)
        return (self._done - self._done_before) / seconds

    def _log_line(self, now: float, note: str) -> None:
        log.info(
            "%s: %d of %d %s, %.3g a second, %.0f s left%s",
            self._label,
            self._done,
            self._total,
            self._unit,
            self._rate(now),
            self.seconds_left,
            f", {note}" if note else "",
        )

    def __enter__(self) -> "Progress":
        """Return the counter itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar, and log the time the work took."""
        self._bar.close()
        if kind is not None:
            return
        seconds = time.monotonic() - self._start_seconds
        log.info("%s: %d %s in %.1f s", self._label, self._done, self._unit, seconds)


def progress(items: Iterable[Item], label: str, total: int, unit: str = "rows") -> Iterator[Item]:
    """The items, with progress shown as they are taken."""
    with Progress(label, total, unit) as counter:
        for item in items:
            yield item
            counter.advance()
