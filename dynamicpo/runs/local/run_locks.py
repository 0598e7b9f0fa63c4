"""Marks of local runs that are going on: locks, which end with their process however that ends."""

from contextlib import AbstractContextManager
from pathlib import Path

from dynamicpo.core.locks import is_locked, locked

_LOCK = ".at-work"


def at_work(folder: Path) -> AbstractContextManager[None]:
    """Mark a run as going on, in its folder."""
    return locked(folder / _LOCK)


def is_at_work(folder: Path) -> bool:
    """Tell whether the process of a run is there."""
    return is_locked(folder / _LOCK)
