"""Addresses of an installation and the login there, of which no message may tell a secret."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from dynamicpo.core.errors import ConfigError

# What HTTP allows: a header's name, and a value of visible characters.
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_TOKEN = re.compile(r"[\x21-\x7e]+")
# A file that was named by mistake, such as a device, must not be read to its end.
_MAX_CHARACTERS = 1 << 16
# Values of cookies stand between these. Shorter parts are words that tell nothing.
_SEPARATORS = re.compile(r"[\s;=]+")
_SHORTEST_SECRET = 6


class Credentials:
    """The headers by which an installation knows its user.

    They stand in files: every process of a machine can read the flags of the others. The files are
    read again when a token has expired, so whatever renews them keeps a long wait alive.

    Args:
        token_file: A file with a bearer token.
        header_file: A file with headers, `Name: value` a line.
    """

    def __init__(self, token_file: str = "", header_file: str = "") -> None:
        """Read the files.

        Raises:
            ConfigError: One of them can't be used.
        """
        self._token_file = token_file
        self._header_file = header_file
        self.headers: Mapping[str, str] = self._read()

    def read_again(self) -> bool:
        """Read the files again, and tell whether they say anything new."""
        earlier = self.headers
        self.headers = self._read()
        return self.headers != earlier

    def hide_in(self, text: str) -> str:
        """The text without the secrets: a server may repeat in its answer what it was sent."""
        for value in self.headers.values():
            for part in _SEPARATORS.split(value):
                if len(part) >= _SHORTEST_SECRET:
                    text = text.replace(part, "***")
        return text

    def _read(self) -> Mapping[str, str]:
        headers = _read_headers(self._header_file) if self._header_file else {}
        if not self._token_file:
            return headers
        if "authorization" in map(str.lower, headers):
            raise ConfigError(
                "--header-file: must not hold Authorization beside --token-file. Give one of them."
            )
        return {**headers, "Authorization": f"Bearer {_read_token(self._token_file)}"}


def check_url(where: str, url: str) -> str:
    """The address of an installation, without a slash at its end.

    Raises:
        ConfigError: It is no address, or holds what must not stand in links.
    """
    try:
        parts = urlsplit(url)
        # Reading the port raises where it is no number.
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    # Not shown where a password may be in it.
    shown = "an address with a login" if "@" in url else repr(url)
    if not usable:
        raise ConfigError(
            f"{where}: must begin with http:// or https://, got {shown}. "
            "Give the address that a browser opens."
        )
    if "@" in parts.netloc:
        raise ConfigError(
            f"{where}: must hold no user and no password, which would stand in links and logs. "
            "Give them as a header: --header-file."
        )
    if parts.query or parts.fragment:
        # It may be a token, too.
        raise ConfigError(
            f"{where}: must end before '?' and '#', got more. Give the address without that."
        )
    return parts.geturl().rstrip("/")


def _read_token(file: str) -> str:
    token = _read_text("--token-file", file).strip()
    if not _TOKEN.fullmatch(token):
        raise ConfigError(
            "--token-file: must hold one token and nothing else, a line without spaces; that is "
            "not so (it is not shown). Write the file again."
        )
    return token


def _read_headers(file: str) -> dict[str, str]:
    headers = {}
    for number, line in enumerate(_read_text("--header-file", file).splitlines(), start=1):
        if not line.strip():
            continue
        name, _, value = line.partition(":")
        value = value.strip()
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ConfigError(
                f"--header-file: line {number} must be `Name: value`, such as "
                "`kubeflow-userid: user@example.com`; it is not (and not shown). Correct it."
            )
        headers[name] = value
    if not headers:
        raise ConfigError("--header-file: must hold a header, got none. Write `Name: value`.")
    return headers


def _read_text(where: str, file: str) -> str:
    # The name is not shown: somebody may have given the token itself.
    remedy = "Give the path of a file that holds it."
    try:
        with Path(file).open(encoding="utf-8") as stream:
            return stream.read(_MAX_CHARACTERS)
    except UnicodeDecodeError:
        problem = "it holds other characters"
    except (OSError, ValueError) as error:
        # A ValueError has no `strerror`, and its text may hold the name.
        problem = getattr(error, "strerror", None) or "no file has such a name"
    # Outside of the handler: the earlier error, which a log may show, holds the name.
    raise ConfigError(f"{where}: must be a file of text that can be read: {problem}. {remedy}")
