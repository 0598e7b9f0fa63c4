"""Text on terminals: every character can be shown, none gives an order, no password is told."""

import logging
import os
import re
import sys
from io import TextIOWrapper

from dynamicpo.core.messages import without_secrets

# C0 and C1 but tabs and line ends, and marks that change the direction of writing. Titles and ids
# come from files: an escape sequence in one could clear the screen or rename the window.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""A text with control characters as escapes such as `\u001b`, which JSON knows too."""
    return _CONTROL.sub(_escape, without_secrets(text))


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


class PrintableFormatter(logging.Formatter):
    """Formats log records as `printable` text."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        return printable(super().format(record))


def prepare_streams() -> None:
    """Let standard output and error take every text, whatever they are connected to."""
    # A program that was started with them closed has none.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        # A terminal of ASCII or Latin-1 shows other characters as escapes.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
