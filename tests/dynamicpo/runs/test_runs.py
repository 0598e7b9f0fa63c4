"""Pipeline parameters, the tasks of a local run, and what a run leaves behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from docker.errors import APIError, NotFound
from kfp import dsl
from kfp.local.status import Status
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineTaskSpec

from dynamicpo.core.errors import ConfigError, DataError, RunFailedError
from dynamicpo.runs.compile import compile_pipeline, load_pipeline
from dynamicpo.runs.local import cache, containers, summary
from dynamicpo.runs.local import run as local_run
from dynamicpo.runs.local.jobs import Container
from dynamicpo.runs.local.kfp_internals import TaskCall
from dynamicpo.runs.local.task_runner import TaskRunner
from dynamicpo.runs.local.tasks import Task
from dynamicpo.runs.objectives import objective_of
from dynamicpo.runs.parameters import check_parameters, pipeline_arguments
from dynamicpo.runs.signatures import pipeline_parameters, pipeline_signature
from tests.fixtures.tables import write_tables

MOVIELENS = {"data_source": "movielens"}


def test_parameters_are_converted_and_completed():
    overrides = {
        **MOVIELENS,
        "sft_epochs": "2",
        "data_k_core": "3",
        "evaluation_base": "true",
        "preference_beta": 2,
    }
    checked = check_parameters("training", overrides)
    assert checked.keys() == pipeline_parameters("training").keys()
    assert (checked["sft_epochs"], checked["data_k_core"], checked["evaluation_base"]) == (
        2.0,
        3,
        True,
    )
    assert isinstance(checked["preference_beta"], float)


def test_equal_values_are_equal_however_they_were_given():
    """kfp's cache key is the text of the arguments: 20 and 20.0 would be two keys."""
    one = check_parameters("training", {**MOVIELENS, "preference_beta": "1", "data_k_core": "1"})
    assert json.dumps(one) == json.dumps(check_parameters("training", MOVIELENS))
    # Settings hold what differs from the preset's.
    settings = {key: {} for key in pipeline_signature("training") if key.endswith("_settings")}
    expected = {**pipeline_signature("training"), **settings}
    assert pipeline_arguments("training", one) == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sft_epoch": 1}, "unknown name 'sft_epoch'.*Did you mean 'sft_epochs'"),
        ({"sft_rows": -1}, "^sft_rows: must be >= 0, got -1"),
        ({"sft_rows": "many"}, "training: sft_rows must be a whole number, got 'many'"),
        (
            {"evaluation_split": "tset"},
            "evaluation_split: unknown name 'tset'.*Did you mean 'test'",
        ),
        ({"sft_rows": -1, "drift_rows": -1}, "sft_rows: .*\ndrift_rows: "),
        ({"preference_num_negatives": 20}, "preference_num_negatives: must be <= .*19.*got 20"),
        ({"objectives": "dmpoo"}, "objectives: unknown name 'dmpoo'.*Did you mean 'dmpo'"),
        ({"objectives": ""}, "objectives: unknown name ''"),
        ({"objectives": []}, "objectives: must be a list with at least one entry"),
        ({"objectives": "[1,"}, "objectives: must be a JSON list or names with commas"),
        ({"objectives": "dmpo,dmpo"}, "objectives: names must differ"),
        (
            {"objectives": [{"objective": "x", "loss": "dmpo"}]},
            'must have "objective", "loss" and "dynamic"',
        ),
        (
            {"objectives": [{"objective": "a/b", "loss": "dmpo", "dynamic": "full"}]},
            "objectives: a name must be",
        ),
        (
            {"objectives": [{"objective": "sft", "loss": "dmpo", "dynamic": "full"}]},
            "objectives: a name must be",
        ),
        (
            {"objectives": [{"objective": "x", "loss": "dmpo", "dynamic": True}]},
            "x: dynamic: unknown name 'True'; choose from beta, full, none, selection",
        ),
        (
            {"data_source": "table"},
            "data_interactions and data_items: must be given for data_source 'table'",
        ),
    ],
    ids=str,
)
def test_bad_parameters_are_named(overrides: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        check_parameters("training", {**MOVIELENS, **overrides})


def test_a_missing_file_is_found_before_anything_starts(tmp_path: Path):
    with pytest.raises(
        DataError, match="data_interactions: must be a file or folder, but '.*nowhere.csv'"
    ):
        local_run.run_pipeline(
            "training", {"data_interactions": str(tmp_path / "nowhere.csv")}, tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_objectives_have_short_names():
    assert objective_of("sdpo") == {"objective": "sdpo", "loss": "sdpo", "dynamic": "none"}
    assert objective_of("dynamicpo-sdpo") == {
        "objective": "dynamicpo-sdpo",
        "loss": "sdpo",
        "dynamic": "full",
    }
    assert objective_of("beta-dmpo")["dynamic"] == "beta"
    *_, default = pipeline_parameters("training")["objectives"]
    assert default == objective_of("dynamicpo-dmpo")


def test_a_loop_counts_as_often_as_its_list_has_entries():
    spec = load_pipeline("training").pipeline_spec
    assert local_run.task_count(spec, {"objectives": [1, 2, 3]}) == 8 + 3 * 2


@pytest.mark.parametrize("image", ["", "a b", "name@sha256:123", "name@md5:1", "NAME:"])
def test_a_wrong_image_is_refused(image: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="--image: must be an image"):
        compile_pipeline("training", tmp_path / "training.yaml", image)


PINNED = "registry.invalid/dynamicpo@sha256:" + 64 * "a"


@pytest.mark.parametrize(
    ("where", "image", "placement"),
    [
        ("--image", "registry.invalid:5000/dynamicpo:v1", {}),
        ("--image", "dynamicpo", {}),
        ("gpu_image", PINNED, {"gpu_image": "registry.invalid/gpu:latest"}),
    ],
)
def test_a_tag_is_refused_with_the_reason_unless_it_is_allowed(
    where: str, image: str, placement: dict[str, Any], tmp_path: Path
):
    path = tmp_path / "training.yaml"
    with pytest.raises(
        ConfigError,
        match=f"^{where}: must be named by digest.*cache.*results of the old.*--allow-tag",
    ):
        compile_pipeline("training", path, image, placement)
    assert not path.exists()
    compile_pipeline("training", path, image, placement, allow_tag=True)
    assert placement.get("gpu_image", image) in path.read_text()


def test_cache_name_follows_what_kfp_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = tmp_path / "interactions.csv"
    table.write_text("a")
    before = cache.cache_name({"data_interactions": str(table)})
    assert before == cache.cache_name({"data_interactions": str(table), "sft_epochs": 3.0})
    table.write_text("b")
    changed = cache.cache_name({"data_interactions": str(table)})
    package = tmp_path / "package"
    package.mkdir()
    (package / "losses.py").write_text("x = 1")
    monkeypatch.setattr(cache, "PACKAGE", package)
    other_source = cache.cache_name({"data_interactions": str(table)})
    (package / "losses.py").write_text("x = 2")
    assert (
        len({before, changed, other_source, cache.cache_name({"data_interactions": str(table)})})
        == 4
    )


TRACE = ["Traceback (most recent call last):", '  File "x.py", line 3, in f', "    g()"]


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (
            [*TRACE, "dynamicpo.core.errors.ConfigError: rows: must be 1.", "beta: must be 2."],
            "rows: must be 1.\nbeta: must be 2.",
        ),
        (
            [*TRACE, "KeyError: 'a'", "", "During handling, another:", *TRACE, "ValueError: b"],
            "ValueError: b",
        ),
        (["starting", "Killed"], "starting\nKilled"),
        ([], "it printed nothing"),
    ],
    ids=["ours", "chained", "killed", "silent"],
)
def test_the_error_of_a_task_is_its_message(output: list[str], error: str):
    assert Task("task", Path("log"), tail=deque(output)).error == error


PRINTS = r"""
echo "[KFP Executor 2026-01-01 00:00:00,000 INFO]: Looking for component \`f\`"
echo "[KFP Executor 2026-01-01 00:00:00,000 INFO]: SFT: 10 of 20 steps, 2 s left, from $MODEL"
echo "    plain line"
echo "threads $OMP_NUM_THREADS" >&2
exit 3
"""


@pytest.mark.parametrize(
    ("workers", "threads"), [(max(2, os.cpu_count() or 1), "threads 1"), (1, "threads")]
)
def test_a_process_is_followed(
    workers: int,
    threads: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    root = tmp_path / "artifacts"
    runner = TaskRunner(tmp_path, 1, workers, root, str(tmp_path))
    task = runner._current.task = Task("fine-tune", tmp_path / "fine-tune.log")
    with caplog.at_level("INFO", logger="dynamicpo"):
        code = runner.run_process(["sh", "-c", PRINTS], {"MODEL": f"{root}/training-1/sft/model"})
    assert (code, task.cached) == (3, False)
    progress = "fine-tune: SFT: 10 of 20 steps, 2 s left, from sft/model"
    assert [record.getMessage() for record in caplog.records] == ["fine-tune: started", progress]
    assert [line.rstrip() for line in task.log_path.read_text().splitlines()[2:]] == [
        "    plain line",
        threads,
    ]


def test_a_containers_pieces_of_output_become_lines():
    """An engine gives what it has, in the middle of a line or of a letter."""
    client = mock.MagicMock()
    client.containers.create.return_value.logs.return_value = [
        "é".encode()[:1],
        "é".encode()[1:] + b"n\ntw",
        b"o\n\xff",
    ]
    assert list(Container(client, "image", ["true"]).lines()) == ["én\n", "two\n", "\ufffd"]


@pytest.mark.parametrize(("caller", "user"), [(1234, "1234:1234"), (0, "10001:0")])
def test_a_container_runs_as_the_caller_but_never_as_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caller: int, user: str
):
    owners: list[Any] = []
    monkeypatch.setattr(os, "getuid", lambda: caller)
    monkeypatch.setattr(os, "getgid", lambda: caller)
    monkeypatch.setattr(os, "chown", lambda *arguments: owners.append(arguments))
    (tmp_path / "rows.csv").touch()
    parameters = {
        "data_interactions": str(tmp_path / "rows.csv"),
        "data_items": "",
        "sft_backbone": "compact",
    }
    runner = containers.docker_runner(parameters, tmp_path / "artifacts", tmp_path)
    arguments = runner.container_run_args
    assert (arguments["user"], arguments["network_mode"], arguments["cap_drop"]) == (
        user,
        "none",
        ["ALL"],
    )
    assert owners == ([] if caller else [(tmp_path / "artifacts", 10001, 0)])
    (mount,) = arguments["mounts"]
    assert (mount["Target"], mount["Source"], mount["ReadOnly"]) == (
        *2 * (str(tmp_path / "rows.csv"),),
        True,
    )


def test_a_container_that_can_not_start_is_removed():
    client = mock.MagicMock()
    client.containers.create.return_value.start.side_effect = RuntimeError
    with pytest.raises(RuntimeError):
        Container(client, "image", ["true"])
    client.containers.create.return_value.remove.assert_called_once_with(force=True)


@pytest.mark.parametrize(("status", "passes"), [(404, True), (409, True), (500, False)])
def test_a_container_that_another_process_removes_is_no_fault(status: int, passes: bool):
    response = mock.MagicMock(status_code=status)
    client = mock.MagicMock()
    started = client.containers.create.return_value
    started.wait.return_value = {"StatusCode": 0}
    started.remove.side_effect = APIError("Conflict", response=response)
    with contextlib.nullcontext() if passes else pytest.raises(APIError):
        assert Container(client, "image", ["true"]).wait() == 0


def test_leftovers_that_another_run_removes_at_the_same_time(tmp_path: Path):
    client = mock.MagicMock()
    leftover = mock.MagicMock(labels={"dynamicpo.run": str(tmp_path)})
    leftover.remove.side_effect = NotFound("gone", response=mock.MagicMock(status_code=404))
    client.containers.list.return_value = [leftover]
    containers.remove_leftovers(client)
    leftover.remove.assert_called_once_with(force=True)
    assert client.containers.list.call_args.kwargs["ignore_removed"]


def test_the_error_of_a_killed_task_names_the_kill(tmp_path: Path):
    runner = TaskRunner(tmp_path, 1, 1, tmp_path, str(tmp_path))
    task = runner._current.task = Task("fine-tune", tmp_path / "fine-tune.log")
    assert runner.run_process(["sh", "-c", "echo 1 of 9; kill -9 $$"], {}) != 0
    assert task.error.startswith("its process was killed")


@pytest.mark.parametrize(("made", "state"), [(True, "succeeded"), (False, "failed")])
def test_a_task_that_did_not_make_its_outputs_has_failed(tmp_path: Path, made: bool, state: str):
    """Whatever a runner says of it."""
    model = dsl.Artifact(name="model", uri=str(tmp_path / "model"))
    if made:
        (tmp_path / "model").mkdir()
    runner = TaskRunner(tmp_path, 1, 1, tmp_path, str(tmp_path))
    call = {
        "task_name": "fine-tune",
        "task_spec": PipelineTaskSpec(),
        "pipeline_resource_name": "p",
        "io_store": None,
    }
    result = runner.execute(TaskCall(lambda **_: ({"model": model}, Status.SUCCESS), call))
    assert (result.succeeded, bool(result.outputs)) == (made, made)
    assert runner.tasks[0].state == state
    assert made or runner.tasks[0].error == "it ended well, but did not make model"


def bad_tables(folder: Path) -> dict[str, str]:
    interactions, items = write_tables(folder)
    Path(interactions).write_text("user,item_id,timestamp\nu,i,1\n")
    return {"data_source": "table", "data_interactions": interactions, "data_items": items}


def test_a_failed_task_ends_the_run_with_its_own_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises(RunFailedError, match="^prepare-data failed: .*user_id") as caught:
        local_run.run_pipeline("training", bad_tables(tmp_path), tmp_path / "runs" / "bad")
    assert "Traceback" not in str(caught.value)
    run = summary.read(tmp_path / "runs" / "bad")
    states = {task["task"]: task["state"] for task in run["tasks"]}
    assert run["state"] == "failed"
    assert states == {"check-settings": "succeeded", "prepare-data": "failed"}
    assert run["tasks"][1]["error"] in str(caught.value)
    assert "Traceback" in (tmp_path / "runs" / "bad" / run["tasks"][1]["log"]).read_text()
    assert capfd.readouterr().out == ""
    (run,) = summary.list_local_runs(tmp_path / "runs")
    assert (run["run"], run["state"], run["hit_ratio_at_1"]) == ("bad", "failed", {})


def test_a_path_with_python3_in_it_reaches_the_task_as_it_is(tmp_path: Path):
    """kfp's runner puts the interpreter's path for every "python3" in a task's arguments."""
    folder = tmp_path / "python3"
    folder.mkdir()
    with pytest.raises(RunFailedError, match=f"{folder}/interactions.csv"):
        local_run.run_pipeline("training", bad_tables(folder), tmp_path / "run")


def test_a_run_does_not_write_over_another(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="must not exist yet"):
        local_run.run_pipeline("training", MOVIELENS, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_no_process_behind(tmp_path: Path, number: int):
    command = [
        # The tests themselves may run under `nohup` or in the background of a script, where
        # children would ignore the signals.
        *("env", "--default-signal=HUP,INT"),
        sys.executable,
        "-c",
        "from dynamicpo.cli.main import main; raise SystemExit(main())",
        "run",
        "training",
    ]
    command += ["--output", str(tmp_path / "run"), "--param", "data_source=movielens"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "prepare-data: started" in line:
                break
        time.sleep(0.2)
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    run = summary.read(tmp_path / "run")
    assert (run["state"], run["tasks"][-1]["state"]) == ("cancelled", "cancelled")
    assert _processes_with(str(tmp_path)) == []


# A task as kfp starts it: a shell, and below it the program, which ignores interruptions.
STUBBORN = """
import os, signal, sys, time
from pathlib import Path
from dynamicpo.runs.local import supervisor
from dynamicpo.runs.local.jobs import Process
SCRIPT = "trap '' INT; python3 -c 'import time; time.sleep(99)' $0; :"
job = Process(["sh", "-c", SCRIPT, sys.argv[1]], os.environ)
print("started", flush=True)
time.sleep(99)
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_processes_of_a_killed_run_end_with_it(tmp_path: Path, stubborn: bool):
    code = STUBBORN if stubborn else STUBBORN.replace("trap '' INT; ", "")
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "started\n"
        # With fewer the supervisor may not have started the shell, which then gets no signal.
        _wait_until(lambda: len(_processes_with(str(tmp_path))) >= 4)
        process.kill()
    # Those that ignore the interruption are killed after the time that others have to clean up.
    _wait_until(lambda: not _processes_with(str(tmp_path)), seconds=25 if stubborn else 8)


def _wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _processes_with(text: str) -> list[str]:
    """The processes whose command holds a text."""
    paths = Path("/proc").glob("[0-9]*/cmdline")
    return [str(path) for path in paths if text.encode() in _bytes(path)]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_summary_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{")
    with pytest.raises(DataError, match="run/summary.json: must be the record of a run"):
        summary.read(tmp_path / "run")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"metrics": 1}', '{"metrics": {"sft": 1}}', "[" * 9999]
)
def test_a_summary_that_cannot_be_read_hides_no_other_run(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
):
    for name, content in (("bad", text), ("good", '{"started": "2026", "state": "failed"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(content)
    runs = summary.list_local_runs(tmp_path)
    assert [(run["run"], run["state"]) for run in runs] == [
        ("bad", "unreadable"),
        ("good", "failed"),
    ]
    assert "bad/summary.json: must be the record of a run" in caplog.text
