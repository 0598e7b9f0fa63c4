"""The exceptions we raise on purpose.

A message has four slots: where, what must hold, what came, what to do. The command line prints it
and ends with the class's `exit_code`.
"""

import difflib
from collections.abc import Iterable

from dynamicpo.core.messages import limited, without_secrets


class DynamicPOError(Exception):
    """Any failure that is explained by its message alone, without a traceback."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        """Take the message; the logs of a cluster's task show it, too."""
        super().__init__(without_secrets(message))


# These three are ValueErrors, too: a notebook may catch them without knowing our classes.
class ConfigError(DynamicPOError, ValueError):
    """A setting that cannot be used."""


class DataError(DynamicPOError, ValueError):
    """A file or a row that cannot be used."""

    def __init__(self, message: str) -> None:
        """Take the message; what files hold may be long, and wrong in many places."""
        # First, for of a token that is cut nothing tells what it is.
        super().__init__(limited(without_secrets(message)))


class ShapeError(DynamicPOError, ValueError):
    """A tensor that does not fit the others."""


class CheckFailedError(DynamicPOError):
    """A check that did not pass: a leak, a drift gate, a promotion gate."""

    # Not 2: a scheduler tells "the data has drifted" from "the command was wrong" by the exit code.
    exit_code = 3


class RunFailedError(DynamicPOError):
    """A pipeline run that failed, was cancelled or timed out."""

    exit_code = 4


class LostProcessError(RunFailedError):
    """A process that others wait for is gone."""


class ToldError(DynamicPOError):
    """A failure that another process has told the user of already.

    Args:
        message: What has happened, for logs.
        exit_code: The other process's.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        """Take the other's exit code."""
        super().__init__(message)
        self.exit_code = exit_code


def unknown_name(where: str, name: str, choices: Iterable[str]) -> ConfigError:
    """Make the error for a name that is not in a table, with the nearest right one."""
    names = sorted(choices)
    # Half of the letters in common: generous, because a wrong hint costs less than none.
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ConfigError(f"{where}: unknown name {name!r}; choose from {', '.join(names)}.{hint}")
