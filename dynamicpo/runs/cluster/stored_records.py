"""Records of runs on a cluster, found in the object store and read.

A run's tasks write below `PIPELINE ROOT/PIPELINE/RUN/`. The API tells the root only where one was
given; where neither it nor the user does, that of a stock installation is tried.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from dynamicpo.core import storage
from dynamicpo.core.errors import DataError
from dynamicpo.runs.cluster.pod_logs import DEFAULT_ROOT
from dynamicpo.runs.cluster.record import RECORD_FILE, ClusterRecord
from dynamicpo.runs.run_records import read_record
from dynamicpo.runs.signatures import pipeline_names

if TYPE_CHECKING:
    from kfp_server_api import V2beta1Run

_RECORD = re.compile(rf".*/record/{re.escape(RECORD_FILE)}")


class NoRecordError(DataError):
    """A run that left no record."""


class StoredRun(NamedTuple):
    """A run, and where its artifacts lie.

    Attributes:
        name: Its display name.
        run_id: Its id.
        root: The prefix below which pipelines write.
    """

    name: str
    run_id: str
    root: str

    @property
    def prefixes(self) -> Sequence[str]:
        """The prefixes below which its tasks may have written."""
        # The API does not tell a run's pipeline, whose name is part of the prefix.
        folders = [name.replace("_", "-") for name in pipeline_names()]
        return [f"{self.root}/{folder}/{self.run_id}" for folder in folders]


def stored_run(run: "V2beta1Run", store: str) -> StoredRun:
    """A run of the API, with its root.

    Args:
        run: The run.
        store: The prefix below which pipelines write, as the user names it; may be empty.
    """
    config = run.runtime_config
    recorded = config.pipeline_root if config else ""
    root = store or recorded or DEFAULT_ROOT
    return StoredRun(str(run.display_name), str(run.run_id), root.rstrip("/"))


def read_stored_record(run: StoredRun) -> ClusterRecord:
    """The record of a run.

    Raises:
        NoRecordError: It left none.
        DataError: The store can't be read, or holds something else in its place.
    """
    uri = _find_record(run)
    return cast(ClusterRecord, read_record(storage.read_bytes(uri), uri))


def _find_record(run: StoredRun) -> str:
    found = []
    for prefix in run.prefixes:
        if storage.exists(prefix):
            found += storage.find_files(prefix)
    records = [file for file in found if _RECORD.fullmatch(file.uri)]
    if not records:
        places = " or ".join(run.prefixes)
        raise NoRecordError(
            f"{run.name}: must have left its record below {places}, but has not. It failed before "
            "its last task, an older dynamicpo made it, or pipelines write elsewhere (--store)."
        )
    # A task that was tried again may have written one before.
    return max(records, key=lambda file: (file.modified, file.uri)).uri
