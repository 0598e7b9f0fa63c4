"""The training pipeline in containers: results as by processes, no rights, nothing left behind."""

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamicpo.core.errors import ConfigError, RunFailedError
from dynamicpo.runs.local import containers, run, summary
from dynamicpo.runs.local.jobs import Container
from dynamicpo.runs.local.run_locks import at_work
from dynamicpo.runs.local.task_runner import TaskRunner
from dynamicpo.runs.local.tasks import Task
from tests.fixtures.tables import write_tables
from tests.pipelines.test_training import TINY

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]
SOMEBODY = 12345


@pytest.fixture(scope="module")
def client(image: str) -> Iterator[Any]:
    """The engine; at the end no container of the image may be there."""
    found = containers.connect()
    yield found
    assert left_behind(found, image) == []


def left_behind(client: Any, image: str) -> list[Any]:
    """Containers of an image that stay; those of other tests end by themselves."""
    filters = {"ancestor": image}
    engine = client.containers
    for _ in range(30):
        if not (found := engine.list(all=True, filters=filters, ignore_removed=True)):
            break
        time.sleep(1)
    return list(found)


@pytest.fixture(scope="module")
def runs(image: str, client: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same small run in containers and as processes."""
    folder = tmp_path_factory.mktemp("runs")
    interactions, items = write_tables(folder)
    given = {**TINY, "data_interactions": interactions, "data_items": items}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("HF_HUB_OFFLINE")
        run.run_pipeline("training", given, folder / "docker", workers=2, image=image)
        run.run_pipeline("training", given, folder / "subprocess", workers=2)
    return {name: folder / name for name in ("docker", "subprocess")}


@pytest.mark.pipeline
def test_artifacts_equal_those_of_processes(runs: dict[str, Path]):
    found = {
        name: {
            str(path.relative_to(run)): path.read_bytes()
            for path in (run / "artifacts").rglob("*")
            # What differs from run to run: times, and where artifacts lie.
            if path.is_file() and path.name not in ("run.json", "record.json")
        }
        for name, run in runs.items()
    }
    assert found["docker"].keys() == found["subprocess"].keys()
    assert [
        path for path, content in found["docker"].items() if found["subprocess"][path] != content
    ] == []
    models = [path for path in found["docker"] if path.endswith("model.safetensors")]
    assert len(models) == 3 and "artifacts/compare-evaluations/report" in found["docker"]


@pytest.mark.pipeline
def test_the_summary_says_what_the_tasks_ran_in(runs: dict[str, Path], image: str, client: Any):
    found = {name: summary.read(run) for name, run in runs.items()}
    assert [found[name]["runner"] for name in ("docker", "subprocess")] == ["docker", "subprocess"]
    assert found["docker"]["metrics"] == found["subprocess"]["metrics"]
    assert {task["state"] for task in found["docker"]["tasks"]} == {"succeeded"}
    assert client.images.get(image).id in found["docker"]["image"]
    assert re.fullmatch("[0-9a-f]{40}", found["docker"]["commit"])


@pytest.mark.pipeline
def test_no_task_ran_as_root(runs: dict[str, Path]):
    # What the tasks wrote themselves; the run's folder holds the caller's copies of it.
    first = summary.read(runs["docker"])["tasks"][1]["outputs"]
    written = Path(str(first["examples_uri"])).parents[1]
    files = [path for path in written.rglob("*") if path.is_file()]
    assert any(path.name == "model.safetensors" for path in files)
    owners = {path.stat().st_uid for path in files}
    assert owners == {os.getuid() or containers.IMAGE_USER[0]}


LOOK = """
import os, socket
print(os.getuid(), [name for _, name in socket.if_nameindex()])
rights = ("CapEff", "NoNewPrivs")
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(rights)])
for place in ("/opt/dynamicpo/x", "/x", "DATA"):
    try:
        open(place, "a").close()
        print("wrote", place)
    except OSError:
        pass
print(open("DATA").read())
"""


def test_a_container_has_no_rights_and_no_network(image: str, client: Any, tmp_path: Path):
    data = tmp_path / "interactions.csv"
    data.write_text("a row")
    data.chmod(0o666)
    arguments = containers.docker_runner(
        {"data_interactions": str(data)}, tmp_path, tmp_path
    ).container_run_args
    look = ["python3", "-c", LOOK.replace("DATA", str(data))]
    # Another run on this engine takes a container of no run at work for a leftover.
    with at_work(tmp_path):
        container = Container(client, image, look, **arguments)
        said = list(container.lines())
        assert container.wait() == 0
    uid = os.getuid() or containers.IMAGE_USER[0]
    assert said == [f"{uid} ['lo']\n", "['0000000000000000', '1']\n", "a row\n"]


def test_containers_of_killed_runs_are_removed_and_others_are_not(
    image: str, client: Any, tmp_path: Path
):
    started = {}
    for name in ("killed", "going-on"):
        folder = tmp_path / name
        folder.mkdir()
        arguments = containers.docker_runner({}, tmp_path, folder).container_run_args
        started[name] = Container(client, image, ["sleep", "60"], **arguments)
    with at_work(tmp_path / "going-on"):
        containers.remove_leftovers(client)
        running = {container.id for container in client.containers.list()}
    assert started["killed"]._container.id not in running
    assert started["going-on"]._container.id in running
    started["going-on"].send_signal(9)
    assert started["going-on"].wait() == 137


@pytest.mark.parametrize(
    ("command", "code", "killed"),
    [("exit 3", 3, False), ("kill -9 $$", 137, True), ("true", 0, False)],
)
def test_the_exit_code_is_the_containers_own(
    image: str, client: Any, tmp_path: Path, command: str, code: int, killed: bool
):
    """kfp takes a container that was removed before it asked for a success."""
    runner = TaskRunner(tmp_path, 1, 1, tmp_path, str(tmp_path), image)
    task = runner._current.task = Task("fine-tune", tmp_path / "fine-tune.log")
    words = ["sh", "-c", f"echo one; echo two; {command}"]
    assert runner.run_container(client, "python:local", words, init=True) == code
    assert (task.killed, task.log_path.read_text(), list(task.tail)) == (
        killed,
        "one\ntwo\n",
        ["one", "two"],
    )


def bad_tables(folder: Path) -> dict[str, str]:
    interactions, items = write_tables(folder)
    Path(interactions).write_text("user,item_id,timestamp\nu,i,1\n")
    return {"data_source": "table", "data_interactions": interactions, "data_items": items}


def test_a_failed_task_ends_the_run_with_its_own_message(image: str, client: Any, tmp_path: Path):
    with pytest.raises(RunFailedError, match="^prepare-data failed: .*user_id"):
        run.run_pipeline("training", bad_tables(tmp_path), tmp_path / "run", image=image)
    assert summary.read(tmp_path / "run")["state"] == "failed"


def command(folder: Path, image: str, **parameters: str) -> list[str]:
    words = [
        sys.executable,
        "-c",
        "from dynamicpo.cli.main import main; raise SystemExit(main())",
        "run",
        "training",
    ]
    words += ["--runner", "docker", "--image", image, "--output", str(folder / "run")]
    return [
        *words,
        *(word for name, value in parameters.items() for word in ("--param", f"{name}={value}")),
    ]


def test_an_interrupted_run_leaves_no_container_behind(image: str, client: Any, tmp_path: Path):
    with subprocess.Popen(
        command(tmp_path, image, data_source="movielens"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "prepare-data: started" in line:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert summary.read(tmp_path / "run")["state"] == "cancelled"
    assert left_behind(client, image) == []


@pytest.mark.skipif(
    os.getuid() != 0, reason="only root can act as somebody else; all tests here run as such a one"
)
def test_somebody_who_is_not_root_owns_what_the_tasks_made(image: str, client: Any):
    group = Path("/var/run/docker.sock").stat().st_gid
    who: dict[str, Any] = {"user": SOMEBODY, "group": SOMEBODY, "extra_groups": [group]}
    try:
        subprocess.run([sys.executable, "-c", "import dynamicpo.cli"], check=True, cwd="/", **who)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("Python or the checkout stand in a folder that nobody but root may read")
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is root's alone
        folder = Path(name)
        interactions, items = write_tables(folder)
        folder.chmod(0o755)
        os.chown(folder, SOMEBODY, SOMEBODY)
        parameters = {
            "data_source": "table",
            "data_interactions": "interactions.csv",
            "data_items": items,
            "sft_backbone": "/nowhere",
        }
        done = subprocess.run(
            command(folder, image, **parameters),
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            **who,
        )
        assert "fine-tune failed" in done.stderr, done.stderr
        made = [path for path in (folder / "run" / "artifacts").rglob("*") if path.is_file()]
        assert made and {path.stat().st_uid for path in made} == {SOMEBODY}


def test_an_image_without_dynamicpo_is_found_before_anything_starts(client: Any, tmp_path: Path):
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    name = f"dynamicpo-empty:{os.getpid()}"
    subprocess.run(
        ["docker", "import", "-", name], input=empty.getvalue(), check=True, capture_output=True
    )
    try:
        with pytest.raises(
            ConfigError, match=rf"--image: {name} must hold dynamicpo, but .*images/build.sh"
        ):
            run.run_pipeline("training", {"data_source": "movielens"}, tmp_path / "run", image=name)
        assert client.containers.list(all=True, filters={"ancestor": name}) == []
    finally:
        client.images.remove(name)
    assert not (tmp_path / "run").exists()


def test_files_elsewhere_are_refused(image: str, client: Any, tmp_path: Path):
    given = {
        "data_source": "table",
        "data_interactions": "gs://bucket/i.csv",
        "data_items": "gs://bucket/items.csv",
    }
    with pytest.raises(
        ConfigError, match="data_interactions: must be on this machine for --runner docker"
    ):
        run.run_pipeline("training", given, tmp_path / "run", image=image)
