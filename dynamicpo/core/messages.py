"""Texts of users in messages: short, on one line, not too many, and without passwords."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_SHOWN = 60
_REASON = 250
LINE_LIMIT = 499
LINES_LIMIT = 20
_LEFT_OUT = " more problems. Mend these first."
_HIDDEN = "(hidden)"
_hides_values: ContextVar[bool] = ContextVar("hides_values", default=False)


@contextmanager
def hidden_values() -> Iterator[None]:
    """Keep values of a user's files out of messages: any of them may be the id of a person."""
    token = _hides_values.set(True)
    try:
        yield
    finally:
        _hides_values.reset(token)


# Of addresses, also with the one slash that pathlib leaves of two.
_LOGIN = re.compile(r"(\w:/+)[^\s/'\"]*@")
_SECRET = re.compile(
    r"([?&#][^=&\s'\"]*(?:credential|key|password|secret|sig|signature|token)=)[^&\s'\"]+",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """A text whose addresses show no user, no password and no token."""
    return _SECRET.sub(r"\1***", _LOGIN.sub(r"\1***@", text))


def shown(value: object) -> str:
    """A value of a user's file as one short text: cut where it is long, escaped where it is odd."""
    if _hides_values.get():
        return _HIDDEN
    text = value if isinstance(value, str) else repr(value)
    if len(text) > _SHOWN:
        text = text[: _SHOWN - 1] + "…"
    # Not repr of all: a name of letters reads better without quotes.
    return text if text.isprintable() else ascii(text)


def reason_of(error: BaseException) -> str:
    """The reason that an exception of a library gives: its first line, or the name of its class."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= _REASON else text[: _REASON - 1] + "…"


def quoted(value: object) -> str:
    """A value in quotes, cut where it is long."""
    if _hides_values.get():
        return _HIDDEN
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def limited(message: str) -> str:
    """A message of at most 20 lines below 500 characters each, then the number of those left out.

    A line that is too long loses its middle: it begins with the file and ends with what to do. A
    message that was limited already stays as it is.
    """
    # Not splitlines(), which splits at characters that names of columns may hold, such as \x1e.
    lines = [_cut(line) for line in message.split("\n")]
    return "\n".join(_first(lines))


def _cut(line: str) -> str:
    if len(line) <= LINE_LIMIT:
        return line
    half = (LINE_LIMIT - 3) // 2
    return f"{line[:half]} … {line[-half:]}"


def _first(lines: Sequence[str]) -> list[str]:
    is_limited = len(lines) == LINES_LIMIT + 1 and lines[-1].endswith(_LEFT_OUT)
    if is_limited or len(lines) <= LINES_LIMIT:
        return list(lines)
    num_left_out = len(lines) - LINES_LIMIT
    return [*lines[:LINES_LIMIT], f"{num_left_out}{_LEFT_OUT}"]
