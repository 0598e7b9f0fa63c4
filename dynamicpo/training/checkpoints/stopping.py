"""Signals that end a training: the step that is under way is finished, and its state kept."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

Handler = Callable[[int, FrameType | None], object]
# Of schedulers, and of a user's Ctrl-C.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A request to stop after the current step."""

    def __init__(self) -> None:
        """Start without one."""
        self.number = 0

    def __bool__(self) -> bool:
        """Tell whether somebody wants the training to stop."""
        return self.number != 0

    def receive(self, number: int) -> None:
        """Take note of a signal."""
        name = signal.Signals(number).name
        log.info("%s: the training stops after this step; a second signal stops it now", name)
        self.number = number


@contextmanager
def stop_requests(request: StopRequest) -> Iterator[None]:
    """Take signals as requests; at the end of the block the first one has its usual effect."""
    # Python lets only the main thread handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[int, object] = {}

    def take(number: int, frame: FrameType | None) -> None:
        if request:
            _take_effect(number, previous[number])
        request.receive(number)

    for number in map(int, _SIGNALS):
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, take)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
    if request:
        _take_effect(request.number, previous[request.number])


def _take_effect(number: int, handler: object) -> None:
    if callable(handler):
        handler(number, None)
    # By default a signal would end the process without a chance to remove what is unfinished.
    raise SystemExit(128 + number)
