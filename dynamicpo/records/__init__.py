"""The files between stages: row schemas, whole-or-nothing outputs, and the manifest.

A stage's output is a folder that appears by one rename, with `manifest.json` (what determines the
result: stage, configuration, inputs, counts, a checksum of each file) and `run.json` (what does not:
duration, host, versions).
"""

from dynamicpo.records.manifest import (
    Manifest,
    canonical,
    config_dict,
    file_checksum,
    fingerprint,
    folder_checksum,
    input_fingerprint,
    keep_mapping,
    read_manifest,
    write_json,
)
from dynamicpo.records.outputs import check_output, finished, stage_output
from dynamicpo.records.rows import (
    CANDIDATES,
    EXAMPLES,
    ITEMS,
    PREFERENCES,
    SPLITS,
    Row,
    read_items,
    read_rows,
    write_items,
    write_rows,
)

__all__ = [
    "CANDIDATES",
    "EXAMPLES",
    "ITEMS",
    "PREFERENCES",
    "SPLITS",
    "Manifest",
    "Row",
    "canonical",
    "check_output",
    "config_dict",
    "file_checksum",
    "fingerprint",
    "finished",
    "folder_checksum",
    "input_fingerprint",
    "keep_mapping",
    "read_items",
    "read_manifest",
    "read_rows",
    "stage_output",
    "write_items",
    "write_json",
    "write_rows",
]
