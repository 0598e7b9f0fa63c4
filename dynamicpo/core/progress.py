"""Progress of long work: a bar on a terminal, plain lines elsewhere (done, rate, time left)."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
log = logging.getLogger(__name__)


class Progress:
    """Counts steps of a known total.

    Args:
        label: What is being done.
        total: How many units there are.
        unit: The name of one unit.
        every_seconds: The shortest time between two plain lines.
    """

    def __init__(
        self, label: str, total: int, unit: str = "rows", every_seconds: float = 10.0
    ) -> None:
        """Start the clock."""
        self._label, self._total, self._unit, self._every = label, total, unit, every_seconds
        self._done, self._started = 0, time.monotonic()
        self._said = self._started
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            desc=label,
            unit=f" {unit}",
            disable=not terminal,
            file=sys.stderr,
            leave=False,
        )

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units; `note` stands behind the line."""
        self._done += count
        self._bar.update(count)
        if note:
            self._bar.set_postfix_str(note)
        now = time.monotonic()
        if self._bar.disable and (now - self._said >= self._every):
            self._said = now
            self._say(now, note)

    def _say(self, now: float, note: str) -> None:
        seconds = max(now - self._started, 1e-9)
        rate = self._done / seconds
        left = (self._total - self._done) / rate if rate else float("inf")
        text = f"{self._label}: {self._done} of {self._total} {self._unit}, {rate:.3g} a second, {left:.0f} s left"
        log.info("%s%s", text, f", {note}" if note else "")

    def __enter__(self) -> "Progress":
        """Return the counter itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar, and say how long it took."""
        self._bar.close()
        if kind is None:
            log.info(
                "%s: %d %s in %.1f s",
                self._label,
                self._done,
                self._unit,
                time.monotonic() - self._started,
            )


def progress(items: Iterable[T], label: str, total: int, unit: str = "rows") -> Iterator[T]:
    """The items, with progress shown as they are taken."""
    with Progress(label, total, unit) as counter:
        for item in items:
            yield item
            counter.advance()
