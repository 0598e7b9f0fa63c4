"""Claims on prefixes of object stores: one process at a time makes what will lie there."""

import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dynamicpo.core.errors import DataError
from dynamicpo.core.storage.addresses import join
from dynamicpo.core.storage.conditional_writes import create_object, replace_object, version_of
from dynamicpo.core.storage.failures import LostRaceError
from dynamicpo.core.storage.files import delete, read_bytes

log = logging.getLogger(__name__)

# The object of a claim. Its holder renews it; a killed process leaves it as it is.
CLAIM_NAME = ".claim"
RENEWAL_SECONDS = 20.0
# A claim that stands still for so many renewals has no living holder.
_RENEWALS_MISSED = 3


class PrefixClaim:
    """A claim that this process holds, renewed by a thread until it is given back."""

    def __init__(self, uri: str) -> None:
        """Get the claim.

        Raises:
            DataError: Another process holds it, or it can't be written.
        """
        self._uri = uri
        self._object = join(uri, CLAIM_NAME)
        self._mark = uuid.uuid4().hex
        self._started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._num_renewals = 0
        self._ended = threading.Event()
        self._acquire()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that nobody has taken this claim over, as from a process that stood still.

        Raises:
            DataError: Somebody has.
        """
        if self._holder().get("mark") != self._mark:
            raise DataError(
                f"{self._uri}: must be made by one process at a time, but another one has taken "
                "over from this one, which did not renew its claim. Look which of them runs on."
            )

    def release(self, *, keep: bool) -> None:
        """Give the claim back.

        Args:
            keep: Leave its object, which says that what lies beside it is not whole. The next
                process takes it over.
        """
        self._ended.set()
        self._thread.join()
        # What it was for is done or has failed by now.
        with suppress(DataError):
            if self._holder().get("mark") != self._mark:
                return
            if keep:
                replace_object(self._object, json.dumps({"mark": ""}).encode())
            else:
                delete(self._object)

    def _acquire(self) -> None:
        try:
            create_object(self._object, self._content())
            return
        except LostRaceError:
            version = version_of(self._object)
        if version is not None and not _has_ended(self._holder()):
            log.info("%s: claimed; waiting to see whether its process lives", self._uri)
            self._wait_for_renewal(version)
        try:
            replace_object(self._object, self._content(), version)
        except LostRaceError:
            raise self._held_elsewhere() from None
        # Some stores let two writers of one version win: the later one has it.
        if version is not None:
            time.sleep(min(1.0, RENEWAL_SECONDS))
        if self._holder().get("mark") != self._mark:
            raise self._held_elsewhere()

    def _wait_for_renewal(self, version: str) -> None:
        # By the claim's own changes: clocks of machines and stores differ.
        last = time.monotonic() + _RENEWALS_MISSED * RENEWAL_SECONDS
        while time.monotonic() < last:
            time.sleep(RENEWAL_SECONDS / 4)
            if version_of(self._object) not in (version, None):
                raise self._held_elsewhere()

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL_SECONDS):
            # A store that can't be reached for a while: `check` will tell.
            with suppress(DataError):
                if self._holder().get("mark") != self._mark:
                    return
                self._num_renewals += 1
                replace_object(self._object, self._content())

    def _holder(self) -> dict[str, object]:
        try:
            content = json.loads(read_bytes(self._object))
        except (DataError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _content(self) -> bytes:
        holder = {
            "mark": self._mark,
            "host": platform.node(),
            "process": os.getpid(),
            "process_space": _process_space(),
            "started": self._started,
            "renewals": self._num_renewals,
        }
        return json.dumps(holder).encode()

    def _held_elsewhere(self) -> DataError:
        holder = self._holder()
        what = f"process {holder.get('process')} on {holder.get('host')}"
        return DataError(
            f"{self._uri}: must be made by one process at a time, but it is being made ({what}, "
            f"since {holder.get('started')}). Wait for its end, or choose another output."
        )


def _has_ended(holder: Mapping[str, object]) -> bool:
    """Tell whether a claim's process is known to have ended."""
    if holder.get("mark") == "":
        return True
    process = holder.get("process")
    if holder.get("process_space") != _process_space() or not isinstance(process, int):
        return False
    return not Path(f"/proc/{process}").exists()


def _process_space() -> str:
    """A name for what numbers processes here: this boot, and the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        # Elsewhere than on Linux nobody's is the same.
        return uuid.uuid4().hex
