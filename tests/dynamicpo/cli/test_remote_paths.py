"""Commands read and write prefixes of object stores like folders, and fetch what they need only."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamicpo.cli.commands.remote_paths import local_paths
from dynamicpo.cli.main import main
from dynamicpo.core import storage
from dynamicpo.core.choices import SPLITS
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.partial_folders import check_output
from dynamicpo.core.storage import prefix_claims
from tests.fixtures.fault_proxy import Answer, FaultProxy, Request
from tests.fixtures.folders import preference_rows, write_preferences
from tests.fixtures.object_stores import environment

TABLES = Path(__file__).parents[2] / "fixtures"
URLS = {"gs": "gs_url", "s3": "s3_url", "minio": "minio_url"}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(params=URLS)
def proxy(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FaultProxy]:
    """Each store behind a proxy; `root` leads to an empty prefix, the current folder is empty."""
    scheme = request.param
    monkeypatch.chdir(tmp_path)
    with FaultProxy(request.getfixturevalue(URLS[scheme])) as proxy:
        for name, value in environment(scheme, proxy.url).items():
            monkeypatch.setenv(name, value)
        proxy.root = f"{scheme}://bucket/{tmp_path.name}"
        yield proxy


s3_only = pytest.mark.parametrize("proxy", ["s3"], indirect=True)


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Preferences of which most bytes are negatives, in all splits."""
    draw = random.Random(4)
    splits = {}
    for split in SPLITS:
        rows = preference_rows(split, num_users=20)
        for row in rows:
            row["rejected"] = [draw.randbytes(20).hex() for _ in range(1000)]
        splits[split] = rows
    return write_preferences(tmp_path_factory.mktemp("rows") / "preferences", splits)


def run(capsys: Capture, *argv: str) -> dict[str, Any]:
    """The result of a command that must succeed."""
    capsys.readouterr()
    code = main([*argv, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def refused(capsys: Capture, *argv: str) -> str:
    """The message of a command that must be refused."""
    capsys.readouterr()
    code = main([*argv])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and "Traceback" not in err
    return err.partition("dynamicpo: ")[2]


def prepare(capsys: Capture, output: str, *flags: str) -> dict[str, Any]:
    tables = {name: str(TABLES / f"{name}.csv") for name in ("interactions", "items")}
    paths = [word for name, path in tables.items() for word in (f"--{name}", path)]
    return run(capsys, "prepare-data", *paths, "--output", output, *flags)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json"
    }


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_stages_from_store_to_store_give_the_bytes_of_folders(
    proxy: FaultProxy, tmp_path: Path, capsys: Capture
) -> None:
    prepare(capsys, str(tmp_path / "examples"))
    prepare(capsys, f"{proxy.root}/examples")
    flags = ("--num-candidates", "5", "--allow-leak")
    for root in (str(tmp_path), proxy.root):
        result = run(
            capsys,
            *("sample-negatives", "--examples", f"{root}/examples"),
            *("--output", f"{root}/preferences", *flags),
        )
        assert result["output"] == f"{root}/preferences"
    back = storage.fetch(f"{proxy.root}/preferences", tmp_path / "back")
    assert content(back) == content(tmp_path / "preferences")
    # Nothing is left here, and no claim there.
    assert {path.name for path in tmp_path.iterdir()} == {"examples", "preferences", "back"}
    assert not [uri for uri in storage.list_files(proxy.root) if ".claim" in uri]


def test_finished_output_is_used_as_it_is_and_another_is_refused(
    proxy: FaultProxy, capsys: Capture
) -> None:
    output = f"{proxy.root}/examples"
    first = prepare(capsys, output)
    proxy.requests.clear()
    proxy.content_bytes = 0
    assert prepare(capsys, output) == first
    assert not [request for request in proxy.requests if request.method == "PUT"]
    # Its records are read, and no rows.
    assert proxy.content_bytes < 5000
    tables = ("--interactions", str(TABLES / "interactions.csv"), "--items")
    message = refused(
        capsys,
        *("prepare-data", *tables, str(TABLES / "items.csv"), "--output", output),
        *("--min-history", "2"),
    )
    assert message.startswith(f"{output}: must be new or made from the same")
    storage.delete(f"{output}/manifest.json")
    message = refused(
        capsys, "prepare-data", *tables, str(TABLES / "items.csv"), "--output", output
    )
    assert message.startswith(f"{output}: must not exist yet, but something is there")


@pytest.mark.parametrize("proxy", ["minio"], indirect=True)
def test_drift_fetches_the_columns_that_it_compares(
    proxy: FaultProxy, preferences: Path, tmp_path: Path, capsys: Capture
) -> None:
    storage.put(preferences, f"{proxy.root}/preferences")
    flags = ("--split", "test")
    folders = {"here": str(preferences), "there": f"{proxy.root}/preferences"}
    counts = {}
    for name, folder in folders.items():
        counts[name] = run(
            capsys,
            *("monitor-drift", "--reference", folder, "--current", folder, *flags),
            *("--output", str(tmp_path / name)),
        )["counts"]
    assert counts["here"] == counts["there"]
    assert content(tmp_path / "here") == content(tmp_path / "there")
    # Of all three splits, and no candidates.
    assert proxy.content_bytes < size(preferences) / 6


@pytest.mark.parametrize("proxy", ["gs"], indirect=True)
def test_audit_fetches_no_negatives(proxy: FaultProxy, preferences: Path, capsys: Capture) -> None:
    uri = f"{proxy.root}/preferences"
    storage.put(preferences, uri)
    for split in ("", "/validation"):
        here, there = (
            run(capsys, "audit-candidates", "--train", str(folder), "--test", f"{folder}{split}")
            for folder in (preferences, uri)
        )
        assert here == there
        assert proxy.content_bytes < size(preferences) / 4
        proxy.content_bytes = 0


@s3_only
def test_folder_that_is_not_finished_is_refused_before_it_is_fetched(
    proxy: FaultProxy, preferences: Path, tmp_path: Path, capsys: Capture
) -> None:
    storage.put(preferences / "train", f"{proxy.root}/preferences/train")
    uris = {
        f"{proxy.root}/preferences": "is not finished (it has no manifest.json)",
        f"{proxy.root}/absent": "does not exist",
    }
    for uri, state in uris.items():
        message = refused(capsys, "sample-negatives", "--examples", uri, "--output", "made")
        assert message.startswith(f"{uri}: must be the finished output of a stage, but it {state}")
    assert proxy.content_bytes == 0
    assert not (tmp_path / "made").exists()


@s3_only
def test_messages_name_the_uri_and_not_the_copy(
    proxy: FaultProxy, preferences: Path, capsys: Capture
) -> None:
    uri = f"{proxy.root}/preferences"
    storage.put(preferences, uri)
    storage.delete(f"{uri}/items.parquet")
    message = refused(capsys, "audit-candidates", "--train", uri, "--test", uri)
    assert message.startswith(f"{uri}/items.parquet: {uri} must hold the files")
    message = refused(capsys, "sample-negatives", "--examples", uri, "--output", "made")
    assert message.startswith(f"{uri}: must be the output of prepare_data")


@s3_only
def test_message_on_the_folder_that_a_run_works_in_names_that_folder(proxy: FaultProxy) -> None:
    folder = Path("runs/monday")
    (folder / "logs").mkdir(parents=True)
    with pytest.raises(DataError, match="^runs/monday: must not exist yet"):
        with storage.LocalCopies() as copies:
            check_output(copies.output(f"{proxy.root}/monday", folder))
    assert not storage.exists(f"{proxy.root}/monday")


@s3_only
def test_output_that_can_not_be_written_is_refused_before_the_work(
    proxy: FaultProxy, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dynamicpo.data import prepare

    def no_work(*_: object) -> None:
        raise AssertionError("work")

    monkeypatch.setattr(prepare, "prepare_data", no_work)
    proxy.answer = lambda request: Answer(403) if request.method == "PUT" else None
    uri = f"{proxy.root}/examples"
    message = refused(capsys, "prepare-data", "--source", "movielens", "--output", uri)
    assert message.startswith(f"{uri}/.claim: must be open to this account")
    # What can only be read is an input.
    assert message.endswith("Grant it the role to read or write objects.\n")


@s3_only
def test_upload_that_fails_leaves_no_output_and_is_done_again(
    proxy: FaultProxy, tmp_path: Path, capsys: Capture
) -> None:
    uri = f"{proxy.root}/examples"
    proxy.answer = failing(lambda path: path.endswith("items.parquet"))
    tables = ("--interactions", str(TABLES / "interactions.csv"), "--items")
    message = refused(capsys, "prepare-data", *tables, str(TABLES / "items.csv"), "--output", uri)
    assert message.startswith(f"{uri}/items.parquet: must be open to this account")
    assert not storage.exists(f"{uri}/manifest.json")
    # Of another configuration, which has other files.
    (tmp_path / "old").write_text("")
    storage.put(tmp_path / "old", f"{uri}/train/part-00009.parquet")
    proxy.answer = lambda request: None
    prepare(capsys, uri)
    assert f"{uri}/train/part-00009.parquet" not in storage.list_files(uri)
    run(
        capsys,
        *("sample-negatives", "--examples", uri, "--output", str(tmp_path / "made")),
        *("--num-candidates", "5", "--allow-leak"),
    )


def failing(matches: Callable[[str], bool]) -> Callable[[Request], Answer | None]:
    """Answers of a store that refuses to write some objects."""

    def answer(request: Request) -> Answer | None:
        path = request.path.partition("?")[0]
        return Answer(403) if request.method == "PUT" and matches(path) else None

    return answer


@pytest.fixture
def quick_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_claims, "RENEWAL_SECONDS", 0.2)


def test_output_that_another_process_makes_is_refused(
    proxy: FaultProxy, quick_claims: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{proxy.root}/examples"
    claim = prefix_claims.PrefixClaim(uri)
    # As from another container.
    monkeypatch.setattr(prefix_claims, "_process_space", lambda: "another")
    message = refused(capsys, "prepare-data", "--source", "movielens", "--output", uri)
    assert message.startswith(f"{uri}: must be made by one process at a time, but it is being made")
    claim.check()
    claim.release(keep=False)
    assert not storage.exists(uri)


@pytest.mark.parametrize("is_known_to_be_dead", [False, True])
@s3_only
def test_claim_of_a_killed_process_is_taken_over(
    proxy: FaultProxy,
    is_known_to_be_dead: bool,
    quick_claims: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = f"{proxy.root}/examples"
    holder = {"mark": "a", "process": 2**30, "process_space": "elsewhere"}
    if is_known_to_be_dead:
        holder["process_space"] = prefix_claims._process_space()
        monkeypatch.setattr(prefix_claims.PrefixClaim, "_wait_for_renewal", None)
    name = f"bucket/{uri.partition('bucket/')[2]}/.claim"
    client = storage.clients.store_of("s3://")._client
    client.put_object(
        Bucket="bucket", Key=name.removeprefix("bucket/"), Body=json.dumps(holder).encode()
    )
    claim = prefix_claims.PrefixClaim(uri)
    claim.check()
    claim.release(keep=False)


@s3_only
def test_process_that_stood_still_does_not_complete_what_another_makes(
    proxy: FaultProxy, quick_claims: None, tmp_path: Path
) -> None:
    uri = f"{proxy.root}/examples"
    with pytest.raises(DataError, match=f"{uri}: .* another one has taken over"):
        with storage.LocalCopies() as copies:
            output = copies.output(uri)
            output.mkdir()
            (output / "manifest.json").write_text("{}")
            (tmp_path / "claim").write_text('{"mark": "another"}')
            storage.put(tmp_path / "claim", f"{uri}/.claim")
            copies.publish()
    assert not storage.exists(f"{uri}/manifest.json")
    assert storage.exists(f"{uri}/.claim")


@s3_only
def test_settings_and_compiled_pipelines_may_be_in_a_store(
    proxy: FaultProxy, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "settings.yaml").write_text("source: movielens\nmin_histry: 3\n")
    storage.put(tmp_path / "settings.yaml", f"{proxy.root}/settings.yaml")
    message = refused(capsys, "prepare-data", "--config", f"{proxy.root}/settings.yaml")
    assert message.startswith(f"{proxy.root}/settings.yaml: unknown name 'min_histry'")


@s3_only
def test_reference_is_scored_once_for_all_trainings_on_stored_rows(
    proxy: FaultProxy, preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dynamicpo.core.config import PreferenceConfig
    from dynamicpo.scoring import reference_cache
    from dynamicpo.training.preference_training import _with_reference
    from tests.fixtures.scoring import random_rows, tiny_model

    storage.put(preferences, f"{proxy.root}/preferences")
    encoded = [{"example_id": "e", **vars(row)} for row in random_rows(5, 3)]
    expected = None
    for loss in ("dpo", "dmpo"):
        with storage.LocalCopies() as copies:
            local = {"preferences": f"{proxy.root}/preferences"}
            folder = Path(str(local_paths(local, None, copies)["preferences"]))
            config = PreferenceConfig(loss=loss)
            rows = _with_reference(encoded, tiny_model(), folder, config, {})
        logps = [rows[number]["reference_logps"] for number in range(5)]
        expected = expected or logps
        assert logps == expected
        monkeypatch.setattr(reference_cache, "score_rows", None)
    assert len(storage.list_files(f"{proxy.root}/reference-logps")) == 1
    assert not list(tmp_path.iterdir())
