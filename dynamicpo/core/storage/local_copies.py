"""Local folders in the place of prefixes in object stores, for what works on files only.

Inputs are copied before the work. An output is made here and copied to the store when it is whole,
its manifest last.
"""

import functools
import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from dynamicpo.core.errors import DataError, DynamicPOError
from dynamicpo.core.storage.addresses import is_remote, join
from dynamicpo.core.storage.files import delete, exists, list_files, put
from dynamicpo.core.storage.partial_copies import WHOLE, FolderPart, fetch_parts
from dynamicpo.core.storage.prefix_claims import CLAIM_NAME, PrefixClaim

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
# Of a finished output: what its stage says of it again, and no weights or rows.
_RECORDS = (FolderPart(("*.json",)),)
# The URIs of copies that are there now: what is kept beside an input belongs beside its original.
_origins: dict[Path, str] = {}


def origin_of(path: Path) -> str:
    """The URI that a local path is a copy of; the path itself where it is none."""
    return _origins.get(path, str(path))


class _Output(NamedTuple):
    local: Path
    uri: str
    claim: PrefixClaim


class LocalCopies:
    """The local folders of a command's URIs, from `with` to its end."""

    def __init__(self) -> None:
        """Make no folder yet: most commands have local paths only."""
        self._cleanup = ExitStack()
        self._scratch: Path | None = None
        # By local path.
        self._uris: dict[str, str] = {}
        self._outputs: list[_Output] = []
        self._is_publishing = False

    def __enter__(self) -> "LocalCopies":
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give claims back and delete the copies; an error then names URIs and not the copies."""
        for output in self._outputs:
            output.claim.release(keep=self._is_publishing and error is not None)
        self._cleanup.close()
        for local in self._uris:
            _origins.pop(Path(local), None)
        if isinstance(error, DynamicPOError):
            error.args = (self._renamed(str(error)),)

    def fetch(self, uri: str, parts: Sequence[FolderPart] = WHOLE) -> Path:
        """A local path with (parts of) the content of a URI.

        Raises:
            DataError: Nothing is there, or it can't be read.
        """
        if not is_remote(uri):
            return Path(uri)
        local = fetch_parts(uri, self._new_folder(), parts)
        self._uris[str(local)] = _origins[local] = uri.rstrip("/")
        return local

    def fetch_output(self, uri: str, parts: Sequence[FolderPart] = WHOLE) -> Path:
        """A local path with (parts of) the finished output of a stage.

        Raises:
            DataError: It is not finished, or can't be read.
        """
        # Before the transfer: a prefix too high may hold anything.
        if is_remote(uri) and not exists(join(uri, _MANIFEST)):
            state = "is not finished (it has no manifest.json)" if exists(uri) else "does not exist"
            raise DataError(
                f"{uri}: must be the finished output of a stage, but it {state}. "
                "Run that stage first."
            )
        return self.fetch(uri, parts)

    def output(self, uri: str, local: Path | None = None) -> Path:
        """A local path for a folder that `publish` copies to a URI.

        Where the store has a finished output, its records are there, so that a stage finds it.

        Args:
            uri: The folder or prefix.
            local: Where it is made in place of a prefix (default: a temporary folder).

        Raises:
            DataError: Something else is there, another process makes it, or it can't be written.
        """
        if not is_remote(uri):
            return Path(uri)
        uri = uri.rstrip("/")
        if exists(join(uri, _MANIFEST)):
            return self.fetch(uri, _RECORDS)
        # What a killed process has left of this output has its claim beside it.
        if exists(uri) and not exists(join(uri, CLAIM_NAME)):
            raise DataError(
                f"{uri}: must not exist yet, but something is there. "
                "Remove it or choose another output."
            )
        claim = PrefixClaim(uri)
        # A folder of the user's own keeps its name in messages.
        if local is None:
            local = self._new_folder() / uri.rpartition("/")[2]
            self._uris[str(local)] = uri
        self._outputs.append(_Output(local, uri, claim))
        return local

    def publish(self) -> None:
        """Copy the outputs to the store.

        Raises:
            DataError: One can't be written. It has no manifest then, and is no output.
        """
        self._is_publishing = True
        for output in self._outputs:
            log.info("%s: copying the result to the store", output.uri)
            put(output.local, output.uri, functools.partial(_complete, output))

    def _new_folder(self) -> Path:
        if self._scratch is None:
            scratch = tempfile.TemporaryDirectory(prefix="dynamicpo-")
            self._scratch = Path(self._cleanup.enter_context(scratch))
        folder = self._scratch / str(len(self._uris))
        folder.mkdir()
        return folder

    def _renamed(self, message: str) -> str:
        for local, uri in self._uris.items():
            message = message.replace(local, uri)
        return message


def _complete(output: _Output) -> None:
    """Make sure, before the manifest comes, that the prefix holds this output and nothing else."""
    output.claim.check()
    expected = {CLAIM_NAME}
    for path in output.local.rglob("*"):
        expected.add(path.relative_to(output.local).as_posix())
    for uri in list_files(output.uri):
        # Left by a process that was killed while it copied another result.
        if uri.removeprefix(f"{output.uri}/") not in expected:
            delete(uri)
