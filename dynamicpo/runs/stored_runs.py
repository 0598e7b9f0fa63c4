"""Runs of this machine and single evaluations that lie in an object store.

For a list or a comparison of them only a part is fetched.
"""

from collections.abc import Sequence
from pathlib import Path

from dynamicpo.core.errors import unknown_name
from dynamicpo.core.storage import FolderPart, LocalCopies, exists, is_remote, join, list_files

_EVALUATION_FILES = (
    "manifest.json",
    "run.json",
    "comparisons.json",
    "items.parquet",
    "rows.parquet",
)
_MODEL_FILES = ("*/metrics.json", "*/ranks.parquet", "*/steps.jsonl")
_IN_RUNS = tuple(f"artifacts/*/evaluation/{name}" for name in _EVALUATION_FILES)

# Of an evaluation, or of all evaluations of a run: what is compared, and no pages or weights.
COMPARED_PARTS = (FolderPart(("summary.json", *_EVALUATION_FILES, *_IN_RUNS, *_MODEL_FILES)),)
# Of a folder of runs.
LISTED_PARTS = (FolderPart(("*/summary.json",)),)


def compared_folders(names: Sequence[str], folder: str, copies: LocalCopies) -> list[str]:
    """The names of runs to compare, with local copies in the place of those in object stores.

    Args:
        names: Folders or prefixes of runs or of evaluations, or names of runs in `folder`.
        folder: Folder or prefix of the runs.
        copies: What keeps the copies.

    Raises:
        ConfigError: The prefix has no run of that name; the message has the nearest.
        DataError: A run can't be read.
    """
    found = []
    for name in names:
        is_in_folder = is_remote(folder) and not is_remote(name) and not Path(name).is_dir()
        uri = _run_uri(name, folder) if is_in_folder else name
        found.append(str(copies.fetch(uri, COMPARED_PARTS)))
    return found


def _run_uri(name: str, folder: str) -> str:
    uri = join(folder, name)
    if exists(uri):
        return uri
    summaries = [path for path in list_files(folder) if path.endswith("/summary.json")]
    raise unknown_name("compare: run", name, [path.split("/")[-2] for path in summaries])
