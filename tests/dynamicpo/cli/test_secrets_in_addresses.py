"""Passwords and tokens in addresses: no command tells them, whichever flag they came by."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicpo.cli.flags import make_parser
from dynamicpo.cli.main import main
from dynamicpo.cli.terminal import printable
from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import without_secrets
from dynamicpo.core.storage.addresses import parse_address

COMMANDS = make_parser()[1]
ADDRESSES = [
    "https://me:hunter2@example.invalid/x.csv",
    "s3://hunter2:hunter2@bucket/x",
    "https://example.invalid/x?X-Amz-Signature=hunter2&a=b&sig=hunter2",
]
# What must stand before the flags, and what keeps a command from a server or a stage's work.
POSITIONAL = {"run": "training", "compile": "training", "submit": "training"}
POSITIONAL |= {"compare": "no-such-run", "logs": "no-such-run"}


def flags_with_values() -> Iterator[tuple[str, str]]:
    for command, parser in COMMANDS.items():
        for action in parser._actions:
            takes_text = action.nargs != 0 and action.type is None
            if action.option_strings and takes_text:
                yield command, action.option_strings[-1]


@pytest.mark.parametrize(("command", "flag"), flags_with_values())
def test_no_flag_of_any_command_tells_a_secret(
    command: str,
    flag: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = [POSITIONAL[command]] if command in POSITIONAL else []
    for address in ADDRESSES:
        for value in (address, f"name={address}"):
            main([command, *before, "--verbose", flag, value])
            out, err = capsys.readouterr()
            assert "hunter2" not in out + err


def test_errors_and_logs_tell_none(capsys: pytest.CaptureFixture[str]) -> None:
    for address in ADDRESSES:
        assert "hunter2" not in str(DataError(f"{address}: must be there"))
        assert "hunter2" not in printable(f"read {address!r}, {address}.")


def test_address_of_a_store_holds_no_login() -> None:
    with pytest.raises(DataError, match=r"s3://\*\*\*@bucket/x: must hold no user and no passw"):
        parse_address("s3://me:hunter2@bucket/x")
    assert parse_address("gs://bucket/me@example.com").name == "me@example.com"


@pytest.mark.parametrize(
    "text",
    [
        "registry.invalid:5000/image@sha256:aa",
        "gs://bucket/folder/me@example.com?x=1",
        "columns: must be user_id=user, got 'key=value'",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert without_secrets(text) == text
