"""The commands on versions, from publication to rollback."""

import json
from pathlib import Path

import pytest

from dynamicpo.cli.main import main
from dynamicpo.data.sources.user_ids import UserIds
from tests.fixtures.version_sources import make_source, write_preferences

Capture = pytest.CaptureFixture[str]
WHY = ("--why", "it is better", "--who", "ann")


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def publish(folder: Path, store: str, capsys: Capture, weights: bytes) -> str:
    source = make_source(folder / weights.decode(), weights)
    argv = ["publish-version", "--store", store, "--model", str(source.model)]
    argv += ["--evaluation", str(source.evaluation), "--preferences", str(source.preferences)]
    assert main(argv) == 0
    return capsys.readouterr().out.splitlines()[-1]


def test_a_version_is_promoted_and_rolled_back(store: str, tmp_path: Path, capsys: Capture) -> None:
    first = publish(tmp_path, store, capsys, b"a")
    second = publish(tmp_path, store, capsys, b"b")
    assert main(["promote", first[:8], "--store", store, *WHY, "--expected", "none"]) == 0
    assert main(["promote", second, "--store", store, *WHY]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"champion: {first[:12]} (before: none)",
        f"champion: {second[:12]} (before: {first[:12]})",
    ]
    assert main(["roll-back", "--store", store, *WHY, "--json"]) == 0
    decision = json.loads(capsys.readouterr().out)
    assert (decision["champion"], decision["previous"]) == (first, second)
    assert main(["list-versions", "--store", store, "--json"]) == 0
    moves = json.loads(capsys.readouterr().out)["moves"]
    # Each move has the figures of the versions that it is about.
    figures = {"test_hit_ratio_at_1": 0.5}
    both = {first: figures, second: figures}
    assert [move["numbers"] for move in moves] == [{first: figures}, both, both]
    assert main(["list-versions", "--store", store]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"* {first[:12]}  sft")
    assert lines[1].startswith(f"  {second[:12]}  sft")
    assert lines[-1].endswith(f"rollback   {first[:12]}  ann: it is better")


def test_somebody_who_was_first_is_exit_code_3(store: str, tmp_path: Path, capsys: Capture) -> None:
    first = publish(tmp_path, store, capsys, b"a")
    second = publish(tmp_path, store, capsys, b"b")
    main(["promote", first, "--store", store, *WHY])
    assert main(["promote", second, "--store", store, *WHY, "--expected", "none"]) == 3
    assert "Nothing has moved" in capsys.readouterr().err


def test_the_champion_is_copied_for_serving(store: str, tmp_path: Path, capsys: Capture) -> None:
    name = publish(tmp_path, store, capsys, b"a")
    show = ["show-version", "champion", "--store", store, "--output", str(tmp_path / "served")]
    assert main(show) == 2
    assert "must have a champion, but nothing was promoted yet" in capsys.readouterr().err
    main(["promote", name, "--store", store, *WHY])
    assert main(show) == 0
    assert (tmp_path / "served" / "model" / "model.safetensors").read_bytes() == b"a"
    assert '"model": "sft"' in capsys.readouterr().out
    assert main(show) == 2
    assert "must not exist yet" in capsys.readouterr().err


def test_old_versions_are_deleted_on_request(store: str, tmp_path: Path, capsys: Capture) -> None:
    names = [publish(tmp_path, store, capsys, weights) for weights in (b"a", b"b", b"c")]
    assert main(["promote", names[1], "--store", store, *WHY, "--keep", "0"]) == 2
    assert "--keep: must be at least 1" in capsys.readouterr().err
    assert main(["promote", names[1], "--store", store, *WHY, "--keep", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"deleted: {names[0][:12]}"


def test_forgotten_users_are_counted(store: str, tmp_path: Path, capsys: Capture) -> None:
    publish(tmp_path, store, capsys, b"a")
    forgotten = tmp_path / "forgotten.txt"
    forgotten.write_text("1\n2\n77\n")
    assert main(["list-versions", "--store", store, "--forgotten", str(forgotten)]) == 0
    assert "forgotten users: 2" in capsys.readouterr().out


def test_forgotten_users_are_hashed_as_the_data_were(
    store: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = b"0123456789abcdef"
    monkeypatch.setenv("DYNAMICPO_HASH_KEY", key.decode())
    hashed = UserIds(key).hashed("1")
    rows = write_preferences(tmp_path / "rows", users=(hashed,))
    monkeypatch.setattr("tests.fixtures.version_sources.write_preferences", lambda folder: rows)
    publish(tmp_path, store, capsys, b"a")
    forgotten = tmp_path / "forgotten.txt"
    forgotten.write_text("1\n")
    flags = ["--store", store, "--forgotten", str(forgotten)]
    assert main(["list-versions", *flags]) == 0
    assert "forgotten users: 0" in capsys.readouterr().out
    assert main(["list-versions", *flags, "--hash-users"]) == 0
    assert "forgotten users: 1" in capsys.readouterr().out


def test_an_empty_store_is_said(store: str, capsys: Capture) -> None:
    assert main(["list-versions", "--store", store]) == 0
    assert capsys.readouterr().out == f"no versions in {store}\n"
