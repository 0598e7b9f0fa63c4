"""Publication, whole or not at all: folders named by their content, and pointers that move to them.

A published folder never changes. A pointer is a chain of small files `00000001.json`, ... below its
URI, of which the last one counts; it moves by the creation of the next one, which only one writer
can do. Its history stays.
"""

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonValue
from dynamicpo.core.locks import locked
from dynamicpo.core.storage.addresses import is_remote, join, parse_address
from dynamicpo.core.storage.checksums import sha256, sha256_of
from dynamicpo.core.storage.clients import explained, store_of
from dynamicpo.core.storage.conditional_writes import create_object, replace_object
from dynamicpo.core.storage.failures import LostRaceError
from dynamicpo.core.storage.files import delete, exists, fetch, list_files, put, read_bytes
from dynamicpo.core.storage.store import Store

# The list of a published folder's files: written last, so that its presence means "whole".
CONTENTS = "contents.json"
_STEP = re.compile(r"(?:.*/)?(\d{8})\.json")
# Clients and their buckets that have passed the probe in this process.
_honouring: set[tuple[Store, str]] = set()


class Pointer(NamedTuple):
    """A state of a pointer.

    Attributes:
        number: Its number in the chain.
        target: What it points to.
        note: What was said when it was moved there.
    """

    number: int
    target: str
    note: Mapping[str, JsonValue] = MappingProxyType({})


def publish_folder(folder: Path, root: str, *, move: bool = False) -> str:
    """Copy a folder below `root` under the name of its content, or find it there.

    Args:
        folder: The folder. No file in it may be called `contents.json`.
        root: A folder or prefix.
        move: Rename the folder, which is on the same disk, where `root` is a folder.

    Returns:
        The URI of the published folder: the same for the same content.

    Raises:
        DataError: It can't be read or written, or a folder of that name has other content. Then
            nobody takes what has arrived for the folder.
    """
    checksums = _checksums(folder)
    if CONTENTS in checksums:
        raise DataError(f"{folder}: must not have a file {CONTENTS} of its own. Rename it.")
    contents = json.dumps(checksums, indent=1, sort_keys=True).encode()
    uri = join(root, sha256_of(contents))
    if exists(join(uri, CONTENTS)):
        check_content_name(uri)
        return uri
    if is_remote(root):
        put(folder, uri)
        replace_object(join(uri, CONTENTS), contents)
    else:
        publish = _move_here if move else _publish_here
        publish(folder, Path(uri), contents)
    return uri


def check_content_name(uri: str) -> None:
    """Refuse a published folder whose list of files is not the one that its name is made of.

    Raises:
        DataError: It is another one, or can't be read.
    """
    listed = join(uri, CONTENTS)
    name = uri.rstrip("/").rpartition("/")[2]
    if sha256_of(read_bytes(listed)) != name:
        raise DataError(
            f"{listed}: must list the files that the folder is named by, but it lists others: "
            "somebody has changed it. Remove the folder, and publish its content again."
        )


def fetch_published(uri: str, folder: Path) -> Path:
    """A local path with the content of a published folder, checked against its list.

    Raises:
        DataError: It is not whole, or a file is not the one that was published.
    """
    listed = join(uri, CONTENTS)
    if not exists(listed):
        raise DataError(
            f"{uri}: must be a published folder, but {CONTENTS} is missing. "
            "Its publication was interrupted: publish it again."
        )
    local = fetch(uri, folder)
    expected = _listed_checksums(local / CONTENTS, listed)
    found = _checksums(local)
    for name, checksum in expected.items():
        if found.get(name) != checksum:
            raise DataError(
                f"{join(uri, name)}: must be as it was published, but it is missing or changed. "
                "Published folders must not be edited: publish it again under another root."
            )
    return local


def _listed_checksums(path: Path, uri: str) -> dict[str, str]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DataError(
            f"{uri}: must list the files of a published folder, but it is damaged. "
            "Published folders must not be edited: publish it again under another root."
        )
    return content


def read_pointer(uri: str) -> Pointer | None:
    """The present state of a pointer; None where it has never been set.

    Raises:
        DataError: It can't be read.
    """
    numbers = _numbers(uri)
    return _read_step(uri, numbers[-1]) if numbers else None


def pointer_history(uri: str) -> list[Pointer]:
    """All states of a pointer, the present one last.

    Raises:
        DataError: It can't be read.
    """
    return [_read_step(uri, number) for number in _numbers(uri)]


def move_pointer(
    uri: str,
    target: str,
    since: Pointer | None,
    note: Mapping[str, JsonValue] = MappingProxyType({}),
) -> Pointer:
    """Let a pointer point to another target, if it still is as it was read.

    Args:
        uri: The pointer's URI or folder.
        target: What it shall point to.
        since: The state that the decision was made on (None: it was not set).
        note: Values that JSON can hold, kept with the new state.

    Returns:
        The new state.

    Raises:
        LostRaceError: Another writer was first.
        DataError: The store does not honour preconditions, or can't be written.
    """
    number = since.number + 1 if since else 1
    step = join(uri, f"{number:08d}.json")
    # The writer's mark tells its own file from that of another writer with the same target.
    state = {"target": target, "writer": uuid.uuid4().hex, "note": dict(note)}
    content = json.dumps(state).encode()
    if is_remote(uri):
        check_preconditions(uri)
        create_object(step, content)
    else:
        _create_here(Path(step), content)
    return Pointer(number, target, note)


def check_preconditions(uri: str) -> None:
    """Try whether a store refuses to create an object twice; once a process for each bucket.

    Args:
        uri: A prefix to which the probe may be written.

    Raises:
        DataError: It does not: two writers could both believe that they were first.
    """
    address = parse_address(uri)
    proven = (store_of(address.scheme), address.bucket)
    if proven in _honouring:
        return
    probe = join(uri, f".probe-{uuid.uuid4().hex}")
    try:
        create_object(probe, b"first")
        create_object(probe, b"second")
    except LostRaceError:
        _honouring.add(proven)
    else:
        raise DataError(
            f"{uri}: the store must honour preconditions (If-None-Match, generations), but an "
            "object could be created twice. Two writers would overwrite each other: use another "
            "store for pointers."
        )
    finally:
        # What matters is known by now.
        with contextlib.suppress(DataError):
            delete(probe)


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def _publish_here(folder: Path, target: Path, contents: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        with explained(str(target)):
            shutil.copytree(folder, partial)
            (partial / CONTENTS).write_bytes(contents)
            # Another publisher of the same content may have been first.
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                _rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_here(folder: Path, target: Path, contents: bytes) -> None:
    with explained(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / CONTENTS).write_bytes(contents)
        _rename(folder, target)


def _rename(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:
        if not (target / CONTENTS).is_file():
            raise


def _numbers(uri: str) -> list[int]:
    if not exists(uri):
        return []
    matches = [_STEP.fullmatch(file) for file in list_files(uri)]
    return sorted(int(match[1]) for match in matches if match)


def _read_step(uri: str, number: int) -> Pointer:
    step = join(uri, f"{number:08d}.json")
    content = read_bytes(step)
    try:
        state = json.loads(content)
        return Pointer(number, str(state["target"]), dict(state.get("note", {})))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{step}: must be a pointer's JSON with a target, but {error!r}. "
            "Restore it, or delete it to go back to the state before."
        ) from error


def _create_here(path: Path, content: bytes) -> None:
    with explained(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent / ".lock", f"{path.parent}: another process moves this pointer"):
            if path.exists():
                raise LostRaceError(str(path))
            partial = path.with_name(f".{path.name}.partial")
            with partial.open("wb") as stream:
                stream.write(content)
                stream.flush()
                # After a power failure the pointer must not be there without its content.
                os.fsync(stream.fileno())
            partial.replace(path)
