"""Retries: what a store may do better at the next try is tried again, until our deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

from dynamicpo.core.storage.failures import FailureKind
from dynamicpo.core.storage.store import Store

Result = TypeVar("Result")

FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 20.0
# How long each kind of failure is tried again, from the first try on. A store that restarts is back
# within minutes. Where nothing answers at all, the address is most likely wrong.
DEADLINES_SECONDS = {FailureKind.BUSY: 300.0, FailureKind.UNREACHABLE: 20.0}
# A proxy that changes content does so at each try: more tries would only take longer.
NUM_CORRUPT_TRIES = 6


def retried(store: Store, work: Callable[[], Result]) -> Result:
    """The result of `work`, which is called again after failures that may pass.

    Raises:
        Exception: The last failure of `work`, as it was raised.
    """
    from google.api_core import exceptions, retry

    started = time.monotonic()
    num_corrupt = 0

    def may_pass(error: Exception) -> bool:
        nonlocal num_corrupt
        kind = store.kind(error)
        if kind is FailureKind.CORRUPTED:
            num_corrupt += 1
            return num_corrupt < NUM_CORRUPT_TRIES
        if kind not in DEADLINES_SECONDS:
            return False
        return time.monotonic() - started < DEADLINES_SECONDS[kind]

    policy = retry.Retry(
        predicate=may_pass,
        initial=FIRST_WAIT_SECONDS,
        maximum=LONGEST_WAIT_SECONDS,
        timeout=DEADLINES_SECONDS[FailureKind.BUSY],
    )
    try:
        return policy(work)()
    except exceptions.RetryError as error:
        # It stands for the failure before the deadline, which says more.
        raise error.cause from None
