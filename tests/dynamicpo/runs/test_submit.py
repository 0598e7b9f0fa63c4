"""`dynamicpo submit`: requests to a Kubeflow installation, checks before them, and a run's end."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kfp_server_api as api
import pytest
import yaml

from dynamicpo import __version__
from dynamicpo.cli.main import main
from dynamicpo.core import git_commit
from dynamicpo.runs.cluster import wait
from dynamicpo.runs.compile import compile_pipeline
from dynamicpo.runs.signatures import pipeline_signature
from tests.fixtures.kubeflow import Installation
from tests.fixtures.registry import Registry

IMAGE = "registry.invalid/dynamicpo@sha256:" + 64 * "a"
OTHER = "registry.invalid/dynamicpo@sha256:" + 64 * "b"
COMMIT = 40 * "c"
LABELS = {
    "org.opencontainers.image.title": "dynamicpo",
    "org.opencontainers.image.version": __version__,
}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A known commit, no waiting, and nobody's credentials."""
    monkeypatch.setattr(git_commit, "commit", lambda: COMMIT)
    monkeypatch.setattr(git_commit, "changed", lambda: False)
    monkeypatch.setattr(wait, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def kubeflow() -> Iterator[Installation]:
    with Installation().serving() as installation:
        yield installation


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry().serving() as server:
        yield server


def call(kubeflow: Installation, *more: str, image: str = IMAGE, check: bool = False) -> int:
    words = [
        "submit",
        "training",
        "--host",
        kubeflow.host,
        "--image",
        image,
        "--param",
        "data_source=movielens",
    ]
    return main([*words, *([] if check else ["--no-image-check"]), *more])


def test_a_run_is_started_and_its_link_printed(
    kubeflow: Installation, capsys: Capture, tmp_path: Path
):
    assert call(kubeflow, "--param", "sft_rows=7", "--experiment", "weekly") == 0
    assert capsys.readouterr().out == f"{kubeflow.host}/#/runs/details/run-0\n"
    assert [(item.display_name, item.pipeline_id) for item in kubeflow.pipelines] == [
        ("training", "pipeline-0")
    ]
    assert [(item.display_name, item.pipeline_id) for item in kubeflow.versions] == [
        (COMMIT, "pipeline-0")
    ]
    compile_pipeline("training", tmp_path / "training.yaml", IMAGE)
    assert kubeflow.files == [(tmp_path / "training.yaml").read_bytes()]
    (run,) = kubeflow.runs
    assert run["pipeline_version_reference"] == {
        "pipeline_id": "pipeline-0",
        "pipeline_version_id": "version-0",
    }
    assert (run["experiment_id"], kubeflow.experiments[0].display_name) == (
        "experiment-0",
        "weekly",
    )
    assert run["service_account"] == "dynamicpo-pipeline"
    parameters = run["runtime_config"]["parameters"]
    # Settings hold what differs from the preset's, which the first task has from the signature.
    settings = {key: {} for key in pipeline_signature("training") if key.endswith("_settings")}
    assert parameters == {
        **pipeline_signature("training"),
        **settings,
        "sft_rows": 7,
    }


def test_the_result_is_json_on_demand(kubeflow: Installation, capsys: Capture):
    assert call(kubeflow, "--json", "--wait", "1") == 0
    link = f"{kubeflow.host}/#/runs/details/run-0"
    found = json.loads(capsys.readouterr().out)
    # Its store is that of a stock installation, which nobody has forwarded to this machine.
    assert "MINIO_ENDPOINT" in found.pop("problem") and found.pop("hit_ratio_at_1") == {}
    expected = {"run": "run-0", "link": link, "pipeline_version": COMMIT, "state": "succeeded"}
    assert found == expected


def test_a_run_that_succeeded_shows_its_figures_where_the_store_can_be_read(
    kubeflow: Installation, tmp_path: Path, capsys: Capture
):
    metrics = {"sft": {"test_hit_ratio_at_1": 0.25}, "dmpo": {"test_hit_ratio_at_1": 0.5}}
    record = tmp_path / "training" / "run-0" / "compare-evaluations" / "0" / "record"
    record.mkdir(parents=True)
    (record / "record.json").write_text(json.dumps({"parameters": {}, "metrics": metrics}))
    assert call(kubeflow, "--wait", "1", "--store", str(tmp_path)) == 0
    link = f"{kubeflow.host}/#/runs/details"
    assert capsys.readouterr().out.splitlines() == [
        "HitRatio@1: sft 0.250, dmpo 0.500",
        f"{link}/run-0",
    ]
    assert call(kubeflow, "--wait", "1", "--store", str(tmp_path)) == 0
    problem, last = capsys.readouterr().out.splitlines()
    assert problem.startswith("no figures: ") and "must have left its record below" in problem
    assert last == f"{link}/run-1"


def test_a_version_is_uploaded_once_and_other_content_gets_another_name(kubeflow: Installation):
    for image in (IMAGE, IMAGE, OTHER, OTHER):
        assert call(kubeflow, image=image) == 0
    names = [item.display_name for item in kubeflow.versions]
    assert names[0] == COMMIT and names[1].startswith(f"{COMMIT}-") and len(names) == 2
    used = [run["pipeline_version_reference"]["pipeline_version_id"] for run in kubeflow.runs]
    assert used == ["version-0", "version-0", "version-1", "version-1"]
    assert len(kubeflow.pipelines) == len(kubeflow.experiments) == 1


def test_sources_that_are_not_committed_are_no_version_of_the_commit(
    kubeflow: Installation, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(git_commit, "changed", lambda: True)
    assert call(kubeflow) == 0
    monkeypatch.setattr(git_commit, "commit", lambda: "")
    assert call(kubeflow) == 0
    assert [item.display_name for item in kubeflow.versions] == [f"{COMMIT}-changed", __version__]


def test_a_placement_goes_along(kubeflow: Installation, tmp_path: Path):
    (tmp_path / "placement.yaml").write_text("queue: gpu\n")
    assert (
        call(
            kubeflow,
            "--placement",
            str(tmp_path / "placement.yaml"),
            "--place",
            f"gpu_image={OTHER}",
        )
        == 0
    )
    spec, platform = yaml.safe_load_all(kubeflow.files[0])
    tasks = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert tasks["exec-fine-tune"]["podMetadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    assert spec["deploymentSpec"]["executors"]["exec-fine-tune"]["container"]["image"] == OTHER


def test_a_user_of_several_has_a_namespace_and_a_token(
    kubeflow: Installation, tmp_path: Path, capsys: Capture
):
    kubeflow.multi_user, kubeflow.token = True, "secret"
    (tmp_path / "token").write_text("secret\n")
    token = ("--token-file", str(tmp_path / "token"))
    assert call(kubeflow, *token, "--namespace", "dynamicpo") == 0
    assert (kubeflow.pipelines[0].namespace, kubeflow.experiments[0].namespace) == (
        "dynamicpo",
        "dynamicpo",
    )
    capsys.readouterr()
    assert call(kubeflow, *token) == 2
    assert "--namespace: must be given" in capsys.readouterr().err
    assert call(kubeflow, "--namespace", "dynamicpo") == 2
    err = capsys.readouterr().err
    assert (
        "healthz_service_get_healthz" not in err
        and "401" in err
        and "who are you?" in err
        and "--token-file" in err
    )
    kubeflow.multi_user = False
    assert call(kubeflow, *token, "--namespace", "dynamicpo") == 2
    assert "--namespace: must not be given" in capsys.readouterr().err
    assert len(kubeflow.runs) == 1


UNKNOWN = "The API tells of none of its tasks."


@pytest.mark.parametrize(
    ("states", "details", "message"),
    [
        (["PENDING", "RUNNING", "FAILED"], {}, f"the run failed:\n{UNKNOWN}\n"),
        (
            ["FAILED"],
            {"error": api.GoogleRpcStatus(message="no quota")},
            f"the run failed:\nno quota\n{UNKNOWN}\n",
        ),
        (["RUNNING", "CANCELING", "CANCELED"], {}, f"the run was cancelled:\n{UNKNOWN}\n"),
        (["503", "drop", "RUNNING", "FAILED"], {}, f"the run failed:\n{UNKNOWN}\n"),
    ],
)
def test_an_end_that_is_not_good_is_exit_code_4(
    kubeflow: Installation,
    capsys: Capture,
    states: list[str],
    details: dict[str, Any],
    message: str,
):
    kubeflow.states, kubeflow.details = states, details
    assert call(kubeflow, "--wait", "1") == 4
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    assert f"{message}{kubeflow.host}/#/runs/details/run-0" in err


@pytest.mark.parametrize(
    "states", [["PENDING", "RUNNING", "SUCCEEDED"], ["503", "drop", "RUNNING", "SUCCEEDED"]]
)
def test_a_good_end_is_exit_code_0_whatever_the_network_does_meanwhile(
    kubeflow: Installation, states: list[str]
):
    kubeflow.states = states
    assert call(kubeflow, "--wait", "1") == 0


@pytest.mark.parametrize(
    ("state", "message"),
    [("RUNNING", "running after 0.01 minutes, and not ended"), ("503", "not known after")],
)
def test_when_time_is_over_the_run_is_not_called_done(
    kubeflow: Installation, capsys: Capture, state: str, message: str
):
    kubeflow.states = [state]
    assert call(kubeflow, "--wait", "0.01") == 4
    err = capsys.readouterr().err
    assert message in err and f"It goes on: {kubeflow.host}/#/runs/details/run-0" in err


def test_a_run_that_may_not_be_watched_is_not_called_done(kubeflow: Installation, capsys: Capture):
    kubeflow.states = ["RUNNING", "RUNNING"]
    answer = kubeflow.get
    kubeflow.get = lambda path, query: (403, "") if path == "runs/run-0" else answer(path, query)  # type: ignore[method-assign]
    assert call(kubeflow, "--wait", "1") == 4
    assert "the run can't be watched" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--param", "data_interactions=rows.csv"),
            "data_interactions: must begin with gs:// or s3:// or minio://, got 'rows.csv'",
        ),
        (
            ("--param", "sft_backbone=/data/model"),
            "sft_backbone: must begin with gs:// or s3:// or minio://, got '/data/model'",
        ),
        (("--param", "sft_template=mine.yaml"), "sft_template: must begin with gs://"),
        (("--param", "sft_rows=many"), "sft_rows must be a whole number"),
        (("--place", "gpu_cont=2"), "Did you mean 'gpu_count'"),
        (("--place", "gpu_image=registry.invalid/gpu:v1"), "gpu_image: must be named by digest"),
        (("--image", "registry.invalid/dynamicpo:v1"), "--image: must be named by digest"),
        (("--wait", "0"), "--wait: must be > 0 minutes, and not with --cron, got 0"),
        (
            ("--wait", "9", "--cron", "0 0 3 * * 1"),
            "--wait: must be > 0 minutes, and not with --cron, got 9",
        ),
        (("--cron", "0 3 * * 1"), "--cron: must have six fields, seconds first"),
        (
            ("--host", "kubeflow.invalid"),
            "--host: must begin with http:// or https://, got 'kubeflow.invalid'",
        ),
        (("--token-file", "/nowhere"), "--token-file: must be a file of text that can be read"),
    ],
)
def test_what_can_not_be_used_is_found_before_any_request(
    kubeflow: Installation, capsys: Capture, more: tuple[str, ...], message: str
):
    assert call(kubeflow, *more) == 2
    assert message in capsys.readouterr().err
    assert kubeflow.requests == []


def test_files_in_mounted_volumes_are_taken(kubeflow: Installation):
    assert call(kubeflow, "--place", "data_claim=rows", "--param", "sft_backbone=/data/model") == 0
    assert (
        call(kubeflow, "--place", "cache_claim=models", "--param", "sft_backbone=/cache/model") == 0
    )
    assert call(kubeflow, "--param", "sft_backbone=gs://bucket/model") == 0


@pytest.mark.parametrize("version", ["2.16.0", "v2.17.1", "2.16.0-rc.1", "3.0.0"])
def test_a_version_that_runs_what_is_compiled_is_taken_without_a_word(
    kubeflow: Installation, capsys: Capture, version: str
):
    kubeflow.version = version
    assert call(kubeflow) == 0
    assert "2.16.0 or later" not in capsys.readouterr().err


@pytest.mark.parametrize("version", ["2.15.9", "2.5.0", "1.8.22"])
def test_a_version_that_is_too_old_is_refused_before_the_upload(
    kubeflow: Installation, capsys: Capture, version: str
):
    kubeflow.version = version
    assert call(kubeflow) == 2
    expected = f"{kubeflow.host}: must be Kubeflow Pipelines 2.16.0 or later, got {version}"
    assert expected in capsys.readouterr().err
    assert kubeflow.requests == ["GET healthz"]


@pytest.mark.parametrize("version", ["", "main", "rhoai-3.2", "20261126"])
def test_a_name_that_is_no_version_is_warned_of_and_not_refused(
    kubeflow: Installation, capsys: Capture, version: str
):
    kubeflow.version = version
    assert call(kubeflow) == 0
    assert f"2.16.0 or later, but its version is {version!r}" in capsys.readouterr().err
    assert len(kubeflow.runs) == 1


def test_links_begin_with_the_ui_where_it_has_another_address(
    kubeflow: Installation, capsys: Capture
):
    assert call(kubeflow, "--ui", "https://kubeflow.example.com/pipeline/") == 0
    expected = "https://kubeflow.example.com/pipeline/#/runs/details/run-0\n"
    assert capsys.readouterr().out == expected


def test_a_host_that_does_not_answer_is_named(capsys: Capture):
    assert call(Installation(host="http://127.0.0.1:1")) == 2
    assert "http://127.0.0.1:1: must answer, but" in capsys.readouterr().err


def test_a_schedule_is_a_recurring_run_of_this_version(kubeflow: Installation, capsys: Capture):
    assert call(kubeflow, "--cron", "0 0 3 * * 1") == 0
    assert capsys.readouterr().out == f"{kubeflow.host}/#/recurringrun/details/recurring-0\n"
    (recurring_run,) = kubeflow.recurring
    assert recurring_run["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert (
        recurring_run["mode"],
        recurring_run["max_concurrency"],
        recurring_run["no_catchup"],
    ) == ("ENABLE", "1", True)
    assert recurring_run["pipeline_version_reference"]["pipeline_version_id"] == "version-0"
    assert recurring_run["service_account"] == "dynamicpo-pipeline" and kubeflow.runs == []
    assert recurring_run["runtime_config"]["parameters"]["data_source"] == "movielens"


@pytest.mark.parametrize("index", [False, True])
def test_an_image_with_dynamicpo_inside_is_run(
    kubeflow: Installation, registry: Registry, index: bool
):
    assert call(kubeflow, image=registry.add(LABELS, index), check=True) == 0


@pytest.mark.parametrize("labels", [None, {}, {"org.opencontainers.image.title": "ubuntu"}])
def test_an_image_without_dynamicpo_is_found_before_any_request(
    kubeflow: Installation, registry: Registry, capsys: Capture, labels: dict[str, str] | None
):
    image = registry.add(labels)
    assert call(kubeflow, image=image, check=True) == 2
    assert f"--image: {image} must hold dynamicpo, but its label" in capsys.readouterr().err
    good = registry.add(LABELS)
    assert call(kubeflow, "--place", f"gpu_image={image}", image=good, check=True) == 2
    assert f"gpu_image: {image} must hold dynamicpo" in capsys.readouterr().err
    assert kubeflow.requests == []
    assert call(kubeflow, image=image) == 0


def test_an_image_that_is_not_there_is_found(
    kubeflow: Installation, registry: Registry, capsys: Capture
):
    image = f"{registry.host}/team/dynamicpo@sha256:{64 * 'e'}"
    assert call(kubeflow, image=image, check=True) == 2
    err = capsys.readouterr().err
    assert "404" in err and "--no-image-check" in err
    assert call(kubeflow, image=IMAGE, check=True) == 2
    assert "registry.invalid: can't be asked for dynamicpo" in capsys.readouterr().err
    assert kubeflow.requests == []


def test_the_registry_is_asked_with_dockers_own_credentials(
    kubeflow: Installation, registry: Registry, capsys: Capture, tmp_path: Path
):
    registry.login = "me:password"
    image = registry.add(LABELS)
    assert call(kubeflow, image=image, check=True) == 2
    assert "401" in capsys.readouterr().err
    (tmp_path / "docker").mkdir()
    auths = {registry.host: {"auth": "bWU6cGFzc3dvcmQ="}}
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": auths}))
    assert call(kubeflow, image=image, check=True) == 0


def test_another_version_inside_is_logged(
    kubeflow: Installation, registry: Registry, capsys: Capture
):
    old = {**LABELS, "org.opencontainers.image.version": "0.0.1"}
    assert call(kubeflow, image=registry.add(old), check=True) == 0
    assert "holds dynamicpo 0.0.1, this is" in capsys.readouterr().err
