"""Outputs that several processes make together: the main one alone writes them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.distributed.collectives import from_main
from dynamicpo.distributed.group import is_main, rank


def finished_by_main(output: Path, manifest: Manifest) -> Manifest | None:
    """`finished`, as the main process sees it: others may be on machines without the output.

    Raises:
        DataError: The output comes from something else, or processes have other requests.
    """
    _check_same_request(manifest)
    existing = finished(output, manifest) if is_main() else None
    if not from_main(existing is not None):
        return None
    return existing or manifest


@contextmanager
def output_of_main(output: Path, manifest: Manifest) -> Iterator[Path]:
    """The unfinished output's folder, as of `stage_output`; in other processes a temporary one."""
    if is_main():
        with stage_output(output, manifest) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def _check_same_request(manifest: Manifest) -> None:
    cause = from_main(manifest.cause)
    if cause != manifest.cause:
        raise DataError(
            f"process {rank()}: must have the configuration and inputs of process 0, but it has "
            f"others ({manifest.cause}, not {cause}). Start all with the same settings and data."
        )
