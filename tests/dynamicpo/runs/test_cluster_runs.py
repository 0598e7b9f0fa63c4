"""Runs of a Kubeflow installation, listed and compared by the records that they leave."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynamicpo import __version__
from dynamicpo.cli.main import main
from dynamicpo.core import storage
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.runs.cluster.pod_logs import DEFAULT_ROOT
from dynamicpo.runs.cluster.record import RunFacts, StageUris, write_record
from dynamicpo.runs.run_records import hit_ratios, read_record
from tests.fixtures.cluster_runs import put_evaluations, put_record
from tests.fixtures.folders import write_model, write_preferences
from tests.fixtures.kubeflow import Installation, earlier_run

CONFIG = EvaluationConfig(sasrec=False, resamples=100)
Capture = pytest.CaptureFixture[str]
MONDAY, FRIDAY = "0a0a0a0a-0000-4000-8000-000000000001", "0a0a0a0a-0000-4000-8000-000000000002"
TUESDAY = "0a0a0a0a-0000-4000-8000-000000000003"
HIT_RATIO = "test_hit_ratio_at_1"
Evaluations = dict[str, dict[str, Path]]


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> Evaluations:
    """Of two runs on the same rows, each with the same SFT model and one of its own."""
    folder = tmp_path_factory.mktemp("evaluations")
    preferences = write_preferences(folder / "preferences")
    made = {}
    for seed, name in enumerate(("sft", "monday", "friday")):
        model = write_model(folder / f"model-{name}", seed=seed)
        label = "sft" if name == "sft" else "dynamicpo"
        made[name] = folder / f"evaluation-{name}"
        evaluate(preferences, {label: model}, made[name], CONFIG)
    return {name: {"sft": made["sft"], "dynamicpo": made[name]} for name in ("monday", "friday")}


def put_run(
    store: str, run_id: str, evaluations: dict[str, Path], scratch: Path, **more: Any
) -> Any:
    uris = put_evaluations(store, run_id, evaluations)
    put_record(store, run_id, evaluations, uris, scratch, **more)
    return uris


def command(capsys: Capture, *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys: Capture, *argv: str) -> str:
    code, out, err = command(capsys, *argv)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("kind", ["mounted", "object_store", "s3_store"])
def test_two_runs_are_compared(
    kind: str,
    evaluations: Evaluations,
    tmp_path: Path,
    capsys: Capture,
    request: pytest.FixtureRequest,
):
    place = str(tmp_path) if kind == "mounted" else request.getfixturevalue(kind)
    store = f"{place}/pipelines"
    for run_id, name, beta in ((MONDAY, "monday", 1.0), (FRIDAY, "friday", 2.0)):
        put_run(store, run_id, evaluations[name], tmp_path, preference_beta=beta, sft_seed=0)
    # The API has what the user gave, the record all that the run had.
    runs = [earlier_run(FRIDAY, "training friday"), earlier_run(MONDAY, "training monday", store)]
    deleted = ["version-of-training-friday"]
    with Installation(earlier=runs, deleted=deleted).serving() as kubeflow:
        argv = ["compare", MONDAY, "training friday", "--host", kubeflow.host, "--store", store]
        code, out, err = command(capsys, *argv, "--output", str(tmp_path / "out"), "--json")
    assert code == 0, err
    result = json.loads(out)
    assert {"sft", "training monday/dynamicpo", "training friday/dynamicpo"} <= set(
        result["metrics"]
    )
    assert result["runs"] == {
        "preference_beta": {"training monday": 1.0, "training friday": 2.0},
        "images": {
            "training monday": ["registry/dynamicpo@sha256:1"],
            "training friday": ["registry/dynamicpo@sha256:2"],
        },
        "pipeline version": {
            "training monday": "commit-version-of-training-monday",
            "training friday": "version-of-training-friday",
        },
    }
    local = read_manifest(evaluations["monday"]["dynamicpo"]).counts["test_mrr"]
    assert result["metrics"]["training monday/dynamicpo"]["test_mrr"] == local


def test_a_run_from_the_cache_equals_the_run_before_it(
    evaluations: Evaluations, tmp_path: Path, capsys: Capture
):
    """KFP gives a cached task the artifacts of the run before, which stay where they are."""
    store = str(tmp_path / "store")
    uris = put_run(store, MONDAY, evaluations["monday"], tmp_path)
    put_record(store, TUESDAY, evaluations["monday"], uris, tmp_path)
    left = [Path(file).relative_to(store).parts[2] for file in storage.list_files(store)]
    assert {"evaluate-0", "compare-evaluations"} <= set(left)
    below = storage.list_files(f"{store}/training/{TUESDAY}")
    assert [Path(file).name for file in below] == ["record.json"]
    runs = [earlier_run(TUESDAY, "again", store), earlier_run(MONDAY, "first", store)]
    with Installation(earlier=runs).serving() as kubeflow:
        host = ["--host", kubeflow.host, "--json"]
        output = ["--output", str(tmp_path / "out")]
        code, out, err = command(capsys, "compare", "again", "first", *host, *output)
        assert code == 0, err
        listed = json.loads(command(capsys, "runs", *host)[1])["runs"]
    result = json.loads(out)
    # Equal models are one: nothing is left to tell apart but the images.
    assert set(result["metrics"]) == {"random", "popularity", "cooccurrence", "sft", "dynamicpo"}
    assert set(result["runs"]) == {"images", "pipeline version"}
    first, again = (run["hit_ratio_at_1"] for run in listed)
    assert first == again and first["dynamicpo"] == result["metrics"]["dynamicpo"][HIT_RATIO]


def test_what_an_installation_can_not_give_is_named(
    evaluations: Evaluations, tmp_path: Path, capsys: Capture
):
    store = str(tmp_path / "store")
    put_run(store, MONDAY, evaluations["monday"], tmp_path)
    put_evaluations(store, "old", evaluations["monday"])
    runs = [
        earlier_run(MONDAY, "nightly", store),
        earlier_run(FRIDAY, "weekly", store, state="RUNNING"),
        earlier_run("bad", "broken", store, state="FAILED"),
        earlier_run("old", "older", store),
        earlier_run("y", "lost", store),
    ]
    with Installation(earlier=runs).serving() as kubeflow:
        for text, message in (
            ("nightyl", "unknown name 'nightyl'; choose from .*Did you mean 'nightly'"),
            ("weekly", "weekly: must be a run that succeeded, but it is 'running'. Wait for its"),
            ("broken", "broken: must be a run that succeeded, but it is 'failed'. Run it again"),
            ("older", f"older: must have left its record below {store}/negative-scaling/old or "),
            ("lost", "lost: must have left its record below .*/training/y, but has not."),
            ("0a0a0a0a-0000-4000-8000-00000000000f", "404 Not Found: run not found"),
        ):
            said = refused(capsys, "compare", text, "--host", kubeflow.host)
            assert re.search(message, said) and len(said.splitlines()) == 1, said


def test_a_record_that_is_none_is_named(evaluations: Evaluations, tmp_path: Path, capsys: Capture):
    store = str(tmp_path / "store")
    put_run(store, MONDAY, evaluations["monday"], tmp_path)
    record = f"{store}/training/{MONDAY}/compare-evaluations/0/record/record.json"
    for text, problem in (("{", "Expecting property name"), ("[]", "it is no JSON object")):
        Path(record).write_text(text)
        with Installation(earlier=[earlier_run(MONDAY, "nightly", store)]).serving() as kubeflow:
            said = refused(capsys, "compare", MONDAY, "--host", kubeflow.host)
        assert f"{record}: must be the record of a run, but it can't be read ({problem}" in said


def test_the_record_of_the_last_attempt_counts(
    evaluations: Evaluations, tmp_path: Path, capsys: Capture
):
    store = str(tmp_path / "store")
    put_run(store, MONDAY, evaluations["monday"], tmp_path, preference_beta=2.0)
    newer = Path(f"{store}/training/{MONDAY}/compare-evaluations/0/record/record.json")
    older = Path(f"{store}/training/{MONDAY}/compare-evaluations/9/record/record.json")
    older.parent.mkdir(parents=True)
    older.write_text("{")
    with Installation(earlier=[earlier_run(MONDAY, "nightly", store)]).serving() as kubeflow:
        for latest, code in ((newer, 0), (older, 2)):
            for path in (newer, older):
                seconds = 2e9 if path == latest else 1e9
                os.utime(path, (seconds, seconds))
            out = str(tmp_path / f"out-{code}")
            argv = ["compare", MONDAY, "--host", kubeflow.host, "--output", out]
            assert command(capsys, *argv)[0] == code


def test_a_token_is_sent_and_a_dead_host_is_an_error(
    evaluations: Evaluations, tmp_path: Path, capsys: Capture
):
    store = str(tmp_path / "store")
    put_run(store, MONDAY, evaluations["monday"], tmp_path)
    (tmp_path / "token").write_text("secret\n")
    argv = ["compare", MONDAY, "--output", str(tmp_path / "out")]
    runs = [earlier_run(MONDAY, "nightly", store)]
    with Installation(earlier=runs, token="secret").serving() as kubeflow:
        host = ["--host", kubeflow.host]
        assert "401" in refused(capsys, *argv, *host)
        token = ["--token-file", str(tmp_path / "token")]
        assert command(capsys, *argv, *host, *token)[0] == 0
    code, out, err = command(capsys, *argv, *host)
    assert (code, out) == (2, "")
    assert f"{kubeflow.host}: must answer" in err and "Traceback" not in err


def test_runs_are_listed_with_their_figures_where_there_are_some(
    evaluations: Evaluations, tmp_path: Path, capsys: Capture
):
    store = str(tmp_path / "store")
    objectives = [{"objective": "dynamicpo", "loss": "dmpo", "dynamic": "full"}]
    put_run(store, MONDAY, evaluations["monday"], tmp_path, objectives=objectives)
    runs = [
        earlier_run(FRIDAY, "training friday", store, state="RUNNING"),
        earlier_run(TUESDAY, "training tuesday", store),
        earlier_run(MONDAY, "training monday", store),
    ]
    with Installation(earlier=runs).serving() as kubeflow:
        argv = ["runs", "--host", kubeflow.host]
        code, out, err = command(capsys, *argv)
        assert code == 0, err
        listed = json.loads(command(capsys, *argv, "--json")[1])["runs"]
        assert command(capsys, *argv, "--namespace", "team")[0] == 2
    monday, tuesday, friday, problem = out.splitlines()
    ratios = listed[0]["hit_ratio_at_1"]
    assert [*ratios] == ["cooccurrence", "dynamicpo", "popularity", "random", "sft"]
    assert monday.split()[:5] == [MONDAY, "succeeded", "5400", "s", "training"]
    assert monday.endswith(f", sft {ratios['sft']:.3f}, dynamicpo {ratios['dynamicpo']:.3f}")
    link = f"{kubeflow.host}/#/runs/details"
    assert tuesday.split()[4:] == ["training", "tuesday", f"{link}/{TUESDAY}"]
    assert friday.split() == [FRIDAY, "running", "–", "training", "friday", f"{link}/{FRIDAY}"]
    assert problem.startswith("no figures: training tuesday: must have left its record below ")
    assert listed[0]["started"] == "2026-11-02T03:00:00Z" and "problem" not in listed[2]


def test_a_store_that_can_not_be_read_is_named_once(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    """Without a root of the run's or the user's, that of a stock installation is tried."""
    asked = []

    def exists(uri: str) -> bool:
        asked.append(uri)
        raise DataError(f"{uri}: needs credentials, but there are none.")

    monkeypatch.setattr(storage, "exists", exists)
    runs = [earlier_run(FRIDAY, "friday"), earlier_run(MONDAY, "monday")]
    with Installation(earlier=runs).serving() as kubeflow:
        code, out, err = command(capsys, "runs", "--host", kubeflow.host)
        link = f"{kubeflow.host}/#/runs/details"
        said = refused(capsys, "compare", "monday", "--host", kubeflow.host)
    prefix = f"{DEFAULT_ROOT}/negative-scaling"
    assert code == 0 and asked == [f"{prefix}/{FRIDAY}", f"{prefix}/{MONDAY}"]
    assert [line.split() for line in out.splitlines()[:2]] == [
        [MONDAY, "succeeded", "5400", "s", "monday", f"{link}/{MONDAY}"],
        [FRIDAY, "succeeded", "5400", "s", "friday", f"{link}/{FRIDAY}"],
    ]
    assert out.splitlines()[2:] == [
        f"no figures: {prefix}/{FRIDAY}: needs credentials, but there are none."
    ]
    assert "needs credentials" in said and len(said.splitlines()) == 1


def test_flags_of_an_installation_need_a_host(tmp_path: Path, capsys: Capture):
    for words in (["compare", "monday", "--store", "gs://b"], ["runs", "--store", "gs://b"]):
        assert "--store: is for runs of an installation. Give --host as well." in refused(
            capsys, *words
        )
    said = refused(capsys, "runs", str(tmp_path), "--token-file", "token")
    assert "--token-file: is for runs of an installation. Give --host as well." in said


def test_a_record_has_the_keys_of_a_summary(evaluations: Evaluations, tmp_path: Path):
    store = str(tmp_path / "store")
    uris = put_run(store, MONDAY, evaluations["monday"], tmp_path, sft_seed=7)
    path = tmp_path / MONDAY / "record" / "record.json"
    record = read_record(path.read_text(), str(path))
    metrics = json.loads((evaluations["monday"]["sft"] / "sft" / "metrics.json").read_text())
    assert record.pop("metrics")["sft"] == metrics  # type: ignore[index, call-overload]
    pages = {name: f"{uri}/report.html" for name, uri in uris.items()}
    assert record == {
        "run": MONDAY,
        "pipeline": "training",
        "parameters": {"sft_seed": 7},
        "package_version": __version__,
        "images": ["registry/dynamicpo@sha256:1"],
        "report": f"{store}/training/{MONDAY}/compare-evaluations/0/report",
        "rows": f"{store}/rows",
        # These models tell of no training.
        "training_rows": {"sft": {}, "dynamicpo": {}},
        "models": {"sft": f"{store}/model-sft", "dynamicpo": f"{store}/model-dynamicpo"},
        "evaluations": uris,
        "reports": {"training": pages, "evaluation": pages},
    }


def test_other_numbers_of_uris_are_refused(evaluations: Evaluations, tmp_path: Path):
    """A model must never get the URI of another."""
    artifacts: Any = [
        SimpleNamespace(path=str(folder), uri="x") for folder in evaluations["monday"].values()
    ]
    facts = RunFacts("run", "training", [], {})
    with pytest.raises(DataError, match="one URI for each of sft, dynamicpo, got 1"):
        write_record(tmp_path / "x", facts, artifacts, StageUris("", ["a"], ["a"], ["a"]), "")
    assert not (tmp_path / "x").exists()


def test_figures_of_a_record_without_parameters_are_read():
    metrics = {"b": {"test_hit_ratio_at_1": 0.5}, "sft": {"test_hit_ratio_at_1": 0.25}}
    assert [*hit_ratios({"metrics": metrics}).items()] == [("sft", 0.25), ("b", 0.5)]
