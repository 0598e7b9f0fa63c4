"""The exceptions we raise on purpose.

A message has four slots: where, what must hold, what came, what to do. The command line prints it
and ends with the class's `exit_code`.
"""

import difflib
from collections.abc import Iterable


class DynamicPOError(Exception):
    """Any failure that is explained by its message alone, without a traceback."""

    exit_code = 2


class ConfigError(DynamicPOError, ValueError):
    """A setting that cannot be used."""


class DataError(DynamicPOError, ValueError):
    """A file or a row that cannot be used."""


class ShapeError(DynamicPOError, ValueError):
    """A tensor that does not fit the others."""


class CheckFailedError(DynamicPOError):
    """A check said no: a leak, a drift gate, a promotion gate."""

    exit_code = 3


class RunFailedError(DynamicPOError):
    """A pipeline run failed, was cancelled or timed out."""

    exit_code = 4


def unknown_name(where: str, name: str, choices: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a table, with the nearest right one."""
    names = sorted(choices)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"{where}: unknown name {name!r}; choose from {', '.join(names)}.{hint}")
