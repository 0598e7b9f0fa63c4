"""Registration with Kubeflow Model Registry, against a server of its published models."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicpo.cli.main import main
from dynamicpo.promotion.versions import make_version
from tests.fixtures.model_registry import FakeRegistry, model_registry
from tests.fixtures.version_sources import make_source

Capture = pytest.CaptureFixture[str]
TOKEN = "token-of-the-registry"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with model_registry(TOKEN) as held:
        yield held


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def version(tmp_path: Path, store: str) -> str:
    return make_version(make_source(tmp_path / "a", b"a"), store).name


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return str(path)


def register(registry: FakeRegistry, store: str, name: str, *flags: str) -> int:
    place = ["--registry", registry.url, "--name", "movies", "--who", "ann"]
    return main(["register-version", name, "--store", store, *place, *flags])


def test_a_version_is_registered_once(
    registry: FakeRegistry, store: str, version: str, token_file: str, capsys: Capture
) -> None:
    flags = ("--token-file", token_file)
    main(["promote", version, "--store", store, "--why", "first", "--who", "ann"])
    capsys.readouterr()
    assert register(registry, store, "champion", *flags) == 0
    uri = f"{store}/versions/{version}"
    assert capsys.readouterr().out == f"movies {version[:12]}: registered, {uri}\n"
    (model,) = registry.models
    (held,) = registry.versions
    (artifact,) = registry.artifacts.values()
    assert (model.name, model.owner) == ("movies", "ann")
    assert (held.name, held.author, held.registered_model_id) == (version, "ann", model.id)
    assert artifact.uri == uri
    assert (artifact.model_format_name, artifact.model_format_version) == ("safetensors", "1")
    assert held.custom_properties is not None
    properties = {name: value.actual_instance for name, value in held.custom_properties.items()}
    assert properties["test_hit_ratio_at_1"].double_value == 0.5
    assert properties["backbone"].string_value == "compact"
    # The second time nothing is written.
    registry.requests.clear()
    assert register(registry, store, version, *flags) == 0
    assert "was registered before" in capsys.readouterr().out
    assert not [request for request in registry.requests if request.startswith("POST")]


@pytest.mark.parametrize("part", ["/registered_models", "/model_versions", "/artifacts"])
def test_a_broken_registration_is_completed(
    registry: FakeRegistry, store: str, version: str, token_file: str, capsys: Capture, part: str
) -> None:
    registry.breaks_at = part
    flags = ("--token-file", token_file)
    assert register(registry, store, version, *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it answered 500" in line
    assert register(registry, store, version, *flags) == 0
    assert "registered" in capsys.readouterr().out
    assert len(registry.models) == len(registry.versions) == len(registry.artifacts) == 1


def test_a_version_that_lies_elsewhere_is_refused(
    registry: FakeRegistry,
    store: str,
    version: str,
    token_file: str,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    flags = ("--token-file", token_file)
    assert register(registry, store, version, *flags) == 0
    other = str(tmp_path / "other")
    make_version(make_source(tmp_path / "b", b"a"), other)
    assert register(registry, other, version, *flags) == 2
    assert f"must lie at {other}" in capsys.readouterr().err


def test_a_wrong_token_is_not_shown(
    registry: FakeRegistry, store: str, version: str, tmp_path: Path, capsys: Capture
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("another-token-entirely")
    assert register(registry, store, version, "--token-file", str(wrong)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it answered 401" in line
    assert "another-token-entirely" not in line


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9", "Cannot connect"),
        ("ftp://registry", "must begin with http:// or https://"),
        ("https://user:secret-word@registry", "must hold no user and no password"),
    ],
)
def test_an_address_that_leads_nowhere(
    store: str, version: str, capsys: Capture, url: str, reason: str
) -> None:
    argv = ["register-version", version, "--store", store, "--registry", url, "--name", "movies"]
    assert main([*argv, "--who", "ann"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert "secret-word" not in line


def test_a_page_instead_of_an_answer(store: str, version: str, capsys: Capture) -> None:
    with model_registry() as held:
        held.get = lambda path, query: _Page()  # type: ignore[method-assign]
        assert register(held, store, version) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "must be a Kubeflow Model Registry" in line


class _Page:
    def to_dict(self) -> list[str]:
        return ["Sign in"]


def test_missing_client(
    store: str, version: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_registry.core", None)
    with model_registry() as held:
        assert register(held, store, version) == 2
    assert "Install dynamicpo[registry]" in capsys.readouterr().err
