"""The login at a Kubeflow installation: renewed, in headers, never told, and its page refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicpo.cli.main import main
from dynamicpo.runs.cluster import wait
from dynamicpo.runs.cluster.credentials import Credentials
from tests.fixtures.kubeflow import Installation

IMAGE = "registry.invalid/dynamicpo@sha256:" + 64 * "a"
SECRET = "eyJhbGciOiJSUzI1NiJ9.hunter2hunter2"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "POLL_SECONDS", 0.01)


@pytest.fixture
def kubeflow() -> Iterator[Installation]:
    with Installation().serving() as installation:
        yield installation


def submit(kubeflow: Installation, *more: str) -> int:
    words = ["submit", "training", "--host", kubeflow.host, "--image", IMAGE, "--no-image-check"]
    return main([*words, "--param", "data_source=movielens", *more])


def test_a_token_that_has_expired_is_read_again(kubeflow: Installation, tmp_path: Path):
    file = tmp_path / "token"
    file.write_text("first-token")
    kubeflow.token = "first-token"
    kubeflow.states = ["RUNNING", "RUNNING", "SUCCEEDED"]
    answer = kubeflow.get

    def get(path: str, query: dict[str, str]) -> tuple[int, object]:
        # Between two looks at the run the token expires, and what renews it writes the file.
        if path == "runs/run-0" and kubeflow.token == "first-token":
            kubeflow.token = "second-token"
            file.write_text("second-token\n")
        return answer(path, query)

    kubeflow.get = get  # type: ignore[method-assign]
    assert submit(kubeflow, "--token-file", str(file), "--wait", "1") == 0
    # Two answers, a refusal, and the third answer.
    assert kubeflow.requests.count("GET runs/run-0") >= 4


def test_a_token_that_says_nothing_new_is_not_sent_twice(
    kubeflow: Installation, tmp_path: Path, capsys: Capture
):
    (tmp_path / "token").write_text("old-token")
    kubeflow.token = "new-token"
    assert submit(kubeflow, "--token-file", str(tmp_path / "token")) == 2
    assert kubeflow.requests == ["GET healthz"]
    assert "401" in capsys.readouterr().err


def test_headers_of_a_login_go_with_every_request(kubeflow: Installation, tmp_path: Path):
    kubeflow.multi_user = True
    kubeflow.login = {"Cookie": "authservice_session=abc; b=c", "kubeflow-userid": "me@example.com"}
    lines = [f"{name}: {value}" for name, value in kubeflow.login.items()]
    (tmp_path / "headers").write_text("\n\n".join(lines) + "\n")
    flags = ("--namespace", "me", "--header-file", str(tmp_path / "headers"))
    assert submit(kubeflow, *flags, "--wait", "1") == 0
    assert submit(kubeflow, "--namespace", "me") == 2


PAGES = [
    (200, "text/html; charset=utf-8", "<html>Log in</html>"),
    (200, "application/json", '"hello"'),
    (200, "application/json", "[]"),
    (200, "application/json", '{"status": "ok"}'),
    (302, "text/html", "moved"),
]


@pytest.mark.parametrize("page", PAGES)
def test_what_is_no_answer_of_kubeflow_is_refused(
    kubeflow: Installation, capsys: Capture, page: tuple[int, str, str]
):
    kubeflow.page = page
    assert submit(kubeflow) == 2
    out, err = capsys.readouterr()
    assert out == "" and "must be answered by the API of Kubeflow Pipelines" in err
    assert "--header-file" in err and "Traceback" not in err


@pytest.mark.parametrize("command", [["runs"], ["compare", "a", "b"], ["logs", "a"]], ids=str)
def test_another_server_is_no_installation_without_runs(
    kubeflow: Installation, capsys: Capture, command: list[str]
):
    kubeflow.page = (200, "application/json", '{"status": "ok"}')
    assert main([*command, "--host", kubeflow.host]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "must be answered by the API of Kubeflow Pipelines" in err


@pytest.mark.parametrize("page", [*PAGES[:3], (200, "application/json", "{}")])
def test_a_run_is_not_called_started_when_a_login_answers_in_its_place(
    kubeflow: Installation, capsys: Capture, page: tuple[int, str, str]
):
    """As when a session ends in the middle: the first answers were the API's."""
    start = kubeflow.post

    def post(path: str, query: dict[str, str], body: object) -> tuple[int, object]:
        if path == "experiments":
            kubeflow.page = page
        return start(path, query, body)

    kubeflow.post = post  # type: ignore[method-assign]
    assert submit(kubeflow) == 2
    out, err = capsys.readouterr()
    assert "None" not in out + err and "must be answered by the API" in err


MALFORMED = [
    f"{SECRET}\nsecond line",
    f"Bearer {SECRET}",
    f"{SECRET}\x00",
    f"{SECRET} {SECRET}",
    f"\u00e4{SECRET}",
    "",
]


@pytest.mark.parametrize("content", MALFORMED)
@pytest.mark.parametrize("flag", ["--token-file", "--header-file"])
def test_no_message_tells_a_secret_of_a_malformed_file(
    kubeflow: Installation, tmp_path: Path, capsys: Capture, flag: str, content: str
):
    (tmp_path / "secret").write_text(content, encoding="utf-8")
    assert submit(kubeflow, flag, str(tmp_path / "secret"), "-v") == 2
    out, err = capsys.readouterr()
    assert flag in err and err.count("\n") == 1 and "Traceback" not in err
    assert "hunter2" not in out + err and kubeflow.requests == []


@pytest.mark.parametrize("content", [b"\xff\xfe" + SECRET.encode(), SECRET.encode("utf-16")])
def test_no_message_tells_a_secret_in_another_encoding(
    tmp_path: Path, capsys: Capture, content: bytes, kubeflow: Installation
):
    (tmp_path / "secret").write_bytes(content)
    assert submit(kubeflow, "--token-file", str(tmp_path / "secret")) == 2
    assert "hunter2" not in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--token-file", "--header-file"])
def test_a_token_in_place_of_its_file_is_not_told(
    kubeflow: Installation, capsys: Capture, flag: str
):
    for value in (SECRET, f"{SECRET}\x00", SECRET * 99):
        assert submit(kubeflow, flag, value) == 2
        err = capsys.readouterr().err
        assert flag in err and "hunter2" not in err and "Give the path of a file" in err


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@kubeflow.example.com",
        "https://hunter2@kubeflow.example.com",
        "me:hunter2@kubeflow.example.com",
        "ftp://me:hunter2@kubeflow.example.com",
        "https://me:hunter2@kubeflow.example.com:port",
        "https://kubeflow.example.com/?token=hunter2",
        "https://kubeflow.example.com/#access_token=hunter2",
    ],
)
@pytest.mark.parametrize("flag", ["--host", "--ui"])
def test_no_message_or_link_tells_a_password_of_an_address(
    kubeflow: Installation, capsys: Capture, flag: str, url: str
):
    for more in ((), ("--json",), ("-v", "--cron", "0 0 3 * * 1")):
        assert submit(kubeflow, flag, url, *more) == 2
        out, err = capsys.readouterr()
        assert flag in err and "hunter2" not in out + err
    assert kubeflow.requests == []


@pytest.mark.parametrize("command", [["runs"], ["compare", "run"], ["logs", "run"]])
def test_other_commands_tell_none_either(capsys: Capture, command: list[str]):
    assert main([*command, "--host", "https://me:hunter2@kubeflow.example.com", "--json"]) == 2
    out, err = capsys.readouterr()
    assert "--host: must hold no user" in err and "hunter2" not in out + err


def test_an_answer_that_repeats_the_token_is_told_without_it(
    kubeflow: Installation, tmp_path: Path, capsys: Capture
):
    kubeflow.token = "another"
    (tmp_path / "token").write_text(SECRET)
    assert submit(kubeflow, "--token-file", str(tmp_path / "token")) == 2
    err = capsys.readouterr().err
    assert "who are you? *** ***" in err or "who are you? Bearer ***" in err
    assert "hunter2" not in err
    cookie = f"session={SECRET}; other=x"
    (tmp_path / "headers").write_text(f"Cookie: {cookie}\n")
    assert submit(kubeflow, "--header-file", str(tmp_path / "headers")) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_two_ways_of_authorization_are_one_too_many(
    kubeflow: Installation, tmp_path: Path, capsys: Capture
):
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "headers").write_text("authorization: Basic bWU6cHc=\n")
    flags = ("--token-file", str(tmp_path / "token"), "--header-file", str(tmp_path / "headers"))
    assert submit(kubeflow, *flags) == 2
    assert "must not hold Authorization beside --token-file" in capsys.readouterr().err


def test_credentials_show_nothing_of_themselves(tmp_path: Path):
    (tmp_path / "token").write_text(SECRET)
    assert "hunter2" not in repr(Credentials(str(tmp_path / "token")))


def test_a_file_without_end_is_not_read_to_it(kubeflow: Installation, capsys: Capture):
    assert submit(kubeflow, "--token-file", "/dev/zero") == 2
    assert "--token-file: must hold one token" in capsys.readouterr().err


def test_json_is_without_secrets(kubeflow: Installation, tmp_path: Path, capsys: Capture):
    kubeflow.token = SECRET
    (tmp_path / "token").write_text(SECRET)
    assert submit(kubeflow, "--token-file", str(tmp_path / "token"), "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["run"] == "run-0"
    assert "hunter2" not in out + err
