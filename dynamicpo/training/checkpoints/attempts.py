"""Attempts at one training or evaluation, and the checkpoints that they hand on in a prefix.

A checkpoint is a published folder: there whole or not at all, each file with its checksum. A chain
of pointers beside them names the newest. An attempt extends that chain when it starts, and whenever
it saves; as only one process can make the next link, an attempt that lives on while a later one has
started, on a node that was believed lost, can save no more.
"""

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from dynamicpo.core.errors import DataError, DynamicPOError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.partial_folders import disk_error, sync_folder
from dynamicpo.core.storage.addresses import is_remote, join
from dynamicpo.core.storage.checksums import sha256
from dynamicpo.core.storage.failures import FailureKind, LostRaceError, StoreError
from dynamicpo.core.storage.files import delete, exists, list_files
from dynamicpo.core.storage.publication import (
    CONTENTS,
    Pointer,
    fetch_published,
    move_pointer,
    pointer_history,
    publish_folder,
    read_pointer,
)

log = logging.getLogger(__name__)

_CHAIN = "attempts"
_SHARDS = "shards"
# Published whole by another attempt, or by this one before its link was made.
_DAMAGE = (FailureKind.CORRUPTED, FailureKind.MISSING_OBJECT)


class Attempt:
    """This process's attempt at a training, from its start to its success or failure.

    Args:
        root: Folder or prefix of checkpoints; that of this training lies below.
        request: What is to be trained: stage, configuration and inputs give the prefix its name.
        keep: Number of newest checkpoints that are kept.
    """

    def __init__(self, root: str, request: Manifest, keep: int) -> None:
        """Know the place; nothing is read or written."""
        self.request = request
        # Absolute: its files are listed by names that begin with it.
        self._root = root if is_remote(root) else str(Path(root).absolute())
        self.prefix = join(self._root, f"{request.stage}-{request.cause}")
        self.mark = uuid.uuid4().hex
        # Of finished work; each is whole or not there, and stays until the end.
        self.shards = join(self.prefix, _SHARDS)
        self._chain = join(self.prefix, _CHAIN)
        self._keep = keep
        self._link: Pointer | None = None
        self._saved: list[str] = []

    def begin(self) -> None:
        """Take the place over from earlier attempts, which can save no more.

        Raises:
            DataError: It can't be written or read, or another attempt begins at this moment.
        """
        before = read_pointer(self._chain)
        self._saved = _targets(self._history())
        newest = self._saved[-1] if self._saved else ""
        self._extend(newest, before)
        self._delete_unlinked()

    def whole_checkpoints(self) -> Iterator[Path]:
        """The checkpoints of this training as local folders, the newest first.

        One that is damaged is passed over with a warning. Each is gone when the next one is asked
        for.

        Raises:
            StoreError: The store can't be read.
        """
        for uri in reversed(self._saved):
            with self._scratch() as scratch:
                checkpoint = _fetch_whole(uri, Path(scratch))
                if checkpoint is not None:
                    yield checkpoint

    @contextmanager
    def new_checkpoint(self) -> Iterator[Path]:
        """A folder to write a checkpoint into, which is published when the block ends.

        Raises:
            DataError: Another attempt has taken over, or it can't be written.
        """
        try:
            with self._scratch() as scratch:
                folder = Path(scratch) / "checkpoint"
                folder.mkdir()
                yield folder
                self._publish(folder)
        except Exception as error:
            if isinstance(error, DynamicPOError):
                raise
            # A later attempt has deleted the folder.
            self.check_owner()
            number = disk_error(error)
            if number is None and not isinstance(error, OSError):
                raise
            reason = os.strerror(number) if number else str(error)
            raise DataError(
                f"{self.prefix}: must be writable and have room for a checkpoint, but {reason}. "
                "Make room, or name another place with --checkpoints. Started again, the work goes "
                "on from the last checkpoint."
            ) from error

    def end(self) -> None:
        """Delete all checkpoints of this training, which has succeeded.

        Raises:
            DataError: Another attempt has taken over, and needs them.
        """
        if self._link is None:
            return
        self.check_owner()
        delete(self.prefix)
        self._remove_empty_root()
        self._link = None

    def give_up(self) -> None:
        """Leave the checkpoints for the next attempt; without any, leave nothing."""
        if self._link is None or self._saved:
            return
        with suppress(DataError):
            if not exists(self.shards):
                self.end()

    def _publish(self, folder: Path) -> None:
        self.check_owner()
        if not is_remote(self.prefix):
            sync_folder(folder)
        uri = publish_folder(folder, self.prefix, move=True)
        try:
            self._extend(uri, self._link)
        except DataError:
            delete(uri)
            raise
        self._saved.append(uri)
        for old in self._saved[: -self._keep]:
            delete(old)
        self._saved = self._saved[-self._keep :]

    def _extend(self, target: str, before: Pointer | None) -> None:
        note = {"attempt": self.mark}
        try:
            self._link = move_pointer(self._chain, target, before, note)
        except LostRaceError:
            raise self._taken_over() from None

    def check_owner(self) -> None:
        """Make sure that no later attempt has taken over.

        Raises:
            DataError: One has.
        """
        if read_pointer(self._chain) != self._link:
            raise self._taken_over()

    def _taken_over(self) -> DataError:
        return DataError(
            f"{self.prefix}: one attempt at a time may work here, but a later one has taken over. "
            "This one ends; follow the later one, or give each its own --checkpoints."
        )

    def _history(self) -> list[Pointer]:
        return pointer_history(self._chain)

    def _delete_unlinked(self) -> None:
        """Delete what killed attempts have left: half of an upload, or of a folder."""
        newest = self._saved[-self._keep :]
        kept = {self._chain, self.shards, *newest}
        for uri in sorted(self._entries() - kept):
            log.info("%s: removed, left by an attempt that was killed", uri)
            delete(uri)

    def _entries(self) -> set[str]:
        """The URIs of all that lies directly in the prefix."""
        start = join(self.prefix, "")
        entries = set()
        for uri in list_files(self.prefix):
            below = uri.removeprefix(start)
            name = below.partition("/")[0]
            entries.add(join(self.prefix, name))
        return entries

    def _scratch(self) -> TemporaryDirectory[str]:
        """A temporary folder; beside the checkpoints where they are local, so that it can move."""
        parent = None if is_remote(self.prefix) else self.prefix
        return TemporaryDirectory(prefix=".partial-", dir=parent)

    def _remove_empty_root(self) -> None:
        if is_remote(self._root):
            return
        # Others' checkpoints are there, or it is no folder of ours.
        with suppress(OSError):
            Path(self._root).rmdir()


def _targets(history: list[Pointer]) -> list[str]:
    """The checkpoints of a chain, each once, the newest last."""
    targets = [link.target for link in history if link.target]
    return list(dict.fromkeys(targets))


def _fetch_whole(uri: str, folder: Path) -> Path | None:
    try:
        checkpoint = fetch_published(uri, folder)
        # A shorter list would leave files unchecked.
        if sha256(checkpoint / CONTENTS) != uri.rpartition("/")[2]:
            raise DataError(f"{uri}: {CONTENTS} must be as it was published, but it has changed.")
        return checkpoint
    # Its list may be damaged, too, and hold anything.
    except (ValueError, TypeError, AttributeError, OSError) as error:
        if isinstance(error, StoreError) and error.kind not in _DAMAGE:
            raise
        log.warning("%s: not whole, the checkpoint before it is taken (%s)", uri, error)
        return None
