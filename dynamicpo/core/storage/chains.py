"""Lists that grow in a store: chains of small files, each created once."""

from collections.abc import Mapping
from types import MappingProxyType

from dynamicpo.core.errors import DataError
from dynamicpo.core.json_values import JsonValue
from dynamicpo.core.storage.failures import LostRaceError
from dynamicpo.core.storage.publication import move_pointer, pointer_history

# A writer waits for no more than this many others at once.
_ATTEMPTS = 100


def append_once(
    chain: str, target: str, note: Mapping[str, JsonValue] = MappingProxyType({})
) -> None:
    """Add an entry to a chain, unless it stands there.

    Args:
        chain: The chain's URI or folder.
        target: The entry.
        note: Values that JSON can hold, kept with it.

    Raises:
        DataError: The chain can't be read or written.
    """
    for _ in range(_ATTEMPTS):
        history = pointer_history(chain)
        if any(step.target == target for step in history):
            return
        try:
            move_pointer(chain, target, since=history[-1] if history else None, note=note)
        except LostRaceError:
            continue
        return
    raise DataError(
        f"{chain}: must be written, but {_ATTEMPTS} other writers were first. Try again."
    )
