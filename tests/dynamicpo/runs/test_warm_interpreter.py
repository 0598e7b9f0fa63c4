"""Tasks of a local run start from a warm interpreter, as if Python itself had been started."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from dynamicpo.runs.local import warm_client, warm_start
from dynamicpo.runs.local.warm_start import warm_python

# In place of kfp's: runs the code that it is given, and tells how it was started.
TASK = """
import sys
code, *arguments = sys.argv[1:]
print("warm" if "marker" in sys.modules else "cold", flush=True)
exec(code)
"""
# In place of torch and the rest, which take ten seconds.
SERVER = """
import os
import sys
from dynamicpo.runs.local import warm_server
fork = os.fork
def limited():
    if os.path.exists(os.environ["NO_FORKS"]):
        raise BlockingIOError
    return fork()
os.fork = limited
warm_server.IMPORTED = ("marker", "nowhere_to_be_found")
warm_server.main(sys.argv[1:])
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules with a `kfp.dsl.executor_main` of ours, and what the server imports."""
    folder = tmp_path / "modules"
    (folder / "kfp" / "dsl").mkdir(parents=True)
    for part in ("kfp", "kfp/dsl"):
        (folder / part / "__init__.py").write_text("")
    (folder / "kfp" / "dsl" / "executor_main.py").write_text(TASK)
    (folder / "marker.py").write_text("import os\nos.environ['SET_BY_A_LIBRARY'] = 'yes'\n")
    (folder / "quick_server.py").write_text(SERVER)
    root = Path(warm_start.__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(root)]))
    monkeypatch.setenv("NO_FORKS", str(tmp_path / "no-forks"))
    monkeypatch.setattr(warm_start, "_SERVER", "quick_server")
    monkeypatch.setattr(warm_start, "_GPU_DEVICES", ())
    return folder


@pytest.fixture
def environment(package: Path, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """The variables of a task, once the interpreter is warm."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with warm_python(scratch, dict(os.environ)) as variables:
        wait_until((scratch / "python.socket").exists)
        yield variables


@pytest.fixture
def start(environment: Mapping[str, str]) -> Start:
    """Starts a task with some code."""
    return starter(environment)


def starter(environment: Mapping[str, str]) -> Start:
    def start(code: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        script = '_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main "$@"'
        return subprocess.Popen(
            ["sh", "-ec", script, "sh", code, *arguments],
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


def output(process: "subprocess.Popen[str]") -> tuple[list[str], str, int]:
    out, err = process.communicate(timeout=60)
    return out.splitlines(), err, process.returncode


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_task_gets_what_python_would_get(start: Start):
    code = "import os; print(arguments, os.getcwd(), os.environ['SET_BY_A_LIBRARY'], __name__)"
    lines, err, exit_code = output(start(code, "a b", "ü\n"))
    assert lines == ["warm", f"['a b', 'ü\\n'] {os.getcwd()} yes __main__"]
    assert (err, exit_code) == ("", 0)


@pytest.mark.parametrize(
    ("code", "exit_code", "message"),
    [
        ("sys.exit(3)", 3, ""),
        ("raise ValueError('no')", 1, "ValueError: no"),
        ("import os; os.kill(os.getpid(), 9)", 128 + signal.SIGKILL, ""),
        ("import os; os._exit(7)", 7, ""),
    ],
)
def test_the_end_of_a_task_is_its_own(start: Start, code: str, exit_code: int, message: str):
    lines, err, found = output(start(code))
    assert (lines, found) == (["warm"], exit_code)
    assert message in err


# Until a file is there, whose name it is given.
WAITS = """
import pathlib, time
print("waits", flush=True)
while not pathlib.Path(arguments[0]).exists():
    time.sleep(0.02)
"""


def test_tasks_run_side_by_side_and_know_nothing_of_each_other(start: Start, tmp_path: Path):
    code = "import marker; print(hasattr(marker, 'seen')); marker.seen = True"
    tasks = [start(WAITS + code, str(tmp_path / "go-on")) for _ in range(5)]
    for task in tasks:
        assert task.stdout and [task.stdout.readline() for _ in range(2)] == ["warm\n", "waits\n"]
    (tmp_path / "go-on").touch()
    assert [output(task) for task in tasks] == [(["False"], "", 0)] * 5


def test_a_task_with_variables_of_its_own_has_an_interpreter_of_its_own(start: Start):
    lines, _, exit_code = output(start("sys.exit(4)", OTHER="1"))
    assert (lines, exit_code) == (["cold"], 4)
    places = {"DYNAMICPO_CHECKPOINT_PREFIX": "/somewhere"}
    code = "import os; print(os.environ['DYNAMICPO_CHECKPOINT_PREFIX'])"
    assert output(start(code, **places))[0] == ["warm", "/somewhere"]


def test_other_programs_are_pythons_own(environment: Mapping[str, str], package: Path):
    (package / "other.py").write_text("import sys; print(sys.argv[1:], 'marker' in sys.modules)")
    command = ["sh", "-c", "python3 -m other x"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == "['x'] False\n"


def test_before_it_is_warm_tasks_start_without_it(package: Path, tmp_path: Path):
    (package / "marker.py").write_text("import time; time.sleep(99)")
    with warm_python(tmp_path, dict(os.environ)) as environment:
        assert output(starter(environment)("pass"))[0] == ["cold"]


def test_a_machine_with_a_gpu_has_none(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(warm_start, "_GPU_DEVICES", (str(package),))
    with warm_python(tmp_path, {"A": "1"}) as environment:
        assert environment == {"A": "1"} and not (tmp_path / "bin").exists()


# In short waits: a signal that comes just before one would not end it.
CLEANS_UP = """
import time
try:
    print("at work", flush=True)
    for _ in range(990):
        time.sleep(0.1)
except KeyboardInterrupt:
    print("cleaned up")
    raise
"""


def test_an_interruption_reaches_the_task(start: Start):
    task = start(CLEANS_UP)
    assert task.stdout and [task.stdout.readline(), task.stdout.readline()] == [
        "warm\n",
        "at work\n",
    ]
    os.killpg(task.pid, signal.SIGINT)
    lines, err, exit_code = output(task)
    assert lines == ["cleaned up"] and "KeyboardInterrupt" in err, (err, exit_code)
    assert exit_code in (-signal.SIGINT, 128 + signal.SIGINT), err


# It starts a process of its own, and tells both ids.
FAMILY = """
import os, subprocess, time
child = subprocess.Popen(["sleep", "99"])
print(os.getpid(), child.pid, flush=True)
"""


def test_a_task_ends_with_its_client(start: Start):
    task = start(FAMILY + "time.sleep(99)")
    assert task.stdout and task.stdout.readline() == "warm\n"
    processes = [int(word) for word in task.stdout.readline().split()]
    assert all(map(is_alive, processes))
    os.killpg(task.pid, signal.SIGKILL)
    task.wait()
    wait_until(lambda: not any(map(is_alive, processes)))
    assert output(start("pass"))[0] == ["warm"]


def test_what_a_task_leaves_behind_ends_with_it(start: Start):
    lines, _, exit_code = output(start(FAMILY))
    assert exit_code == 0
    wait_until(lambda: not any(map(is_alive, map(int, lines[1].split()))))


# `subprocess.run` would kill it a quarter of a second after the interruption.
WAITS_FOR_CHILD = """
import subprocess
child = subprocess.Popen([sys.executable, arguments[0]])
try:
    child.wait()
except KeyboardInterrupt:
    child.wait()
"""


def test_a_child_of_a_task_is_interrupted_with_it(start: Start, tmp_path: Path):
    (tmp_path / "child.py").write_text(CLEANS_UP)
    task = start(WAITS_FOR_CHILD, str(tmp_path / "child.py"))
    assert task.stdout and [task.stdout.readline() for _ in range(2)] == ["warm\n", "at work\n"]
    os.killpg(task.pid, signal.SIGINT)
    assert output(task)[0] == ["cleaned up"]


def test_a_run_in_the_background_interrupts_its_tasks(package: Path, tmp_path: Path):
    # A shell that runs a script has the commands in its background ignore it.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with warm_python(tmp_path, dict(os.environ)) as environment:
            wait_until((tmp_path / "python.socket").exists)
            task = starter(environment)(CLEANS_UP)
            assert task.stdout and task.stdout.readline() == "warm\n"
            assert task.stdout.readline() == "at work\n"
            os.killpg(task.pid, signal.SIGINT)
            assert output(task)[0] == ["cleaned up"]
    finally:
        signal.signal(signal.SIGINT, previous)


def test_clients_that_go_away_end_no_other_task(start: Start, tmp_path: Path):
    go_on = tmp_path / "go-on"
    task = start(WAITS + "print('to the end')", str(go_on))
    assert task.stdout and [task.stdout.readline() for _ in range(2)] == ["warm\n", "waits\n"]
    fields = {"module": "none", "arguments": [], "environment": {"A": "1"}, "folder": "/"}
    refused = json.dumps(fields).encode() + b"\n"
    no_request = json.dumps({"module": 1}).encode() + b"\n"
    for content in (b"", refused[:9], b"[]\n", no_request, refused):
        for streams in ([], [0, 1, 2]):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "scratch" / "python.socket"))
                # The server may have closed what can't be a request.
                with contextlib.suppress(ConnectionError):
                    socket.send_fds(client, [b"-"], streams)
                    client.sendall(content)
    assert output(start("pass"))[0] == ["warm"]
    go_on.touch()
    assert output(task)[0] == ["to the end"]


def test_a_machine_without_room_for_a_fork_starts_python(start: Start, tmp_path: Path):
    (tmp_path / "no-forks").write_text("")
    assert output(start("sys.exit(5)")) == (["cold"], "", 5)
    (tmp_path / "no-forks").unlink()
    assert output(start("pass"))[0] == ["warm"]


def test_a_task_without_a_standard_stream_starts_python(environment: Mapping[str, str]):
    script = "python3 -m kfp.dsl.executor_main pass <&-"
    done = subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "cold\n"


def test_tasks_end_with_an_interpreter_that_is_killed(start: Start, tmp_path: Path):
    task = start(FAMILY + "time.sleep(99)")
    assert task.stdout and task.stdout.readline() == "warm\n"
    processes = [int(word) for word in task.stdout.readline().split()]
    (server,) = servers(tmp_path / "scratch")
    os.kill(server, signal.SIGKILL)
    _, err, exit_code = output(task)
    assert (err, exit_code) == ("the process that this task was started from has ended\n", 1)
    wait_until(lambda: not any(map(is_alive, processes)))
    assert output(start("pass"))[0] == ["cold"]


@pytest.mark.parametrize("name", ["a b'c", "ü", os.fsdecode(b"\xff")])
def test_any_name_of_the_scratch_folder_will_do(package: Path, tmp_path: Path, name: str):
    scratch = tmp_path / name
    scratch.mkdir()
    with warm_python(scratch, dict(os.environ)) as environment:
        wait_until((scratch / "python.socket").exists)
        assert output(starter(environment)("pass"))[0] == ["warm"]


@pytest.mark.parametrize("name", ["a:b", "long" * 30])
def test_a_name_that_no_socket_or_path_can_have_is_no_fault(
    package: Path, tmp_path: Path, name: str
):
    (tmp_path / name).mkdir()
    with warm_python(tmp_path / name, {"A": "1"}) as environment:
        assert environment == {"A": "1"}


RUN = """
import os, sys, time
from pathlib import Path
from dynamicpo.runs.local import warm_start
warm_start._SERVER, warm_start._GPU_DEVICES = "quick_server", ()
with warm_start.warm_python(Path(sys.argv[1]), dict(os.environ)):
    print("ready", flush=True)
    time.sleep(99)
"""


@pytest.mark.parametrize("is_warm", [False, True])
def test_the_interpreter_ends_with_a_run_that_is_killed(
    package: Path, tmp_path: Path, is_warm: bool
):
    if not is_warm:
        (package / "marker.py").write_text("import time; time.sleep(99)")
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout and run.stdout.readline() == "ready\n"
        if is_warm:
            wait_until((tmp_path / "python.socket").exists)
        assert len(servers(tmp_path)) == 1
        run.kill()
    wait_until(lambda: not servers(tmp_path))


def servers(folder: Path) -> list[int]:
    """The processes that serve below a folder."""
    name = f"quick_server\0{folder}/python.socket".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            content = path.read_bytes()
            # Of those that it forked, it alone leads a session.
            is_server = os.getsid(int(path.parent.name)) == int(path.parent.name)
        except OSError:
            continue
        if name in content and is_server:
            found.append(int(path.parent.name))
    return found


def is_alive(process: int) -> bool:
    """Tell whether a process is there, and no zombie."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_the_client_needs_the_standard_library_alone():
    command = [sys.executable, "-I", "-S", warm_client.__file__, sys.executable, "/nowhere"]
    done = subprocess.run([*command, "-c", "print(1)"], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
