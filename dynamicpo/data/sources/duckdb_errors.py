"""Failures to read a file, with DuckDB's among them, as one clear message each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from dynamicpo.core.errors import DataError

# Lines of a message that tell of SQL and of options of its reader, neither of which a user sees.
_ADVICE = ("Possible", "*", "LINE")


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Explain what makes a file unreadable.

    Raises:
        DataError: The block could not read the file.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: must be UTF-8, but {error}. Convert it with iconv -t UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: must be readable, but {error}. Check the path.") from error
    except duckdb.Error as error:
        raise DataError(
            f"{path}: must be whole and well-formed, but {_reason(error)}. "
            "Export it again, in UTF-8."
        ) from error


def _reason(error: duckdb.Error) -> str:
    """The part of a message of DuckDB that speaks of the file, on one line."""
    # Behind a blank line DuckDB lists the options that it read the file with.
    message, _, _ = str(error).partition("\n\n")
    reasons = []
    for line in message.splitlines():
        text = line.strip()
        if text and not line.startswith(_ADVICE):
            reasons.append(text)
    reason = " ".join(reasons)
    return reason.rstrip(".").removeprefix("Invalid Input Error: ")
