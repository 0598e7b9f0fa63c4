"""A claim is held by one process, among containers and on mounts without locks too."""

import errno
import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from dynamicpo.core import claims
from dynamicpo.core.claims import claimed
from dynamicpo.core.errors import DataError
from tests.conftest import IMAGE
from tests.dynamicpo.core.processes import lines_of, start

HOLD = """
import sys
from pathlib import Path
from dynamicpo.core.claims import claimed
with claimed(Path(sys.argv[1]), "the output"):
    print("holding", flush=True)
    sys.stdin.readline()
"""
# A file system without locks, as object-store mounts are.
NO_LOCKS = """
import errno, fcntl, os
def flock(descriptor, operation):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
fcntl.flock = flock
from dynamicpo.core import claims
claims.LEASE_SECONDS = 0.6
"""
ELSEWHERE = """
from filelock import _identity, _marker, _soft
for module in (_identity, _marker, _soft):
    module.host_name = lambda: "another-machine"
"""


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.6)


def test_claim_is_for_one_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    with claimed(path, "the output"):
        message = rf"the output: must be made by one.*\(process {os.getpid()} on .*, since 20"
        with pytest.raises(DataError, match=message), claimed(path, "the output"):
            pytest.fail("two hold it")
    assert list(tmp_path.iterdir()) == []
    with claimed(path, "the output"):
        pass


def test_claim_of_a_killed_process_can_be_taken_by_another_user(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    previous = os.umask(0o077)
    try:
        with start(HOLD, path) as holder:
            assert lines_of(holder, 1) == ["holding"]
    finally:
        os.umask(previous)
    assert oct(path.stat().st_mode & 0o777) == "0o666"
    with claimed(path, "the output"):
        pass


def test_claim_holds_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    path = tmp_path / "claim"
    with claimed(path, "the output"), pytest.raises(DataError, match="one process at a time"):
        with claimed(path, "the output"):
            pytest.fail("two hold it")
    assert list(tmp_path.iterdir()) == []


def test_claim_without_locks_is_refused_while_its_holder_lives(
    tmp_path: Path, no_locks: None
) -> None:
    path = tmp_path / "claim"
    with start(NO_LOCKS + HOLD, path) as holder:
        assert lines_of(holder, 1) == ["holding"]
        # It waits for longer than the lease lasts, which the heartbeat renews.
        with pytest.raises(DataError, match="the output: must be made by one process at a time"):
            with claimed(path, "the output"):
                pytest.fail("two hold it")
        holder.communicate("\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["", ELSEWHERE], ids=["this machine", "another machine"])
def test_claim_without_locks_is_taken_from_a_dead_holder(
    tmp_path: Path, no_locks: None, where: str
) -> None:
    path = tmp_path / "claim"
    with start(NO_LOCKS + where + HOLD, path) as holder:
        assert lines_of(holder, 1) == ["holding"]
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert [file.name for file in tmp_path.iterdir()] == ["claim-lease"]
    with claimed(path, "the output"):
        pass


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_two_containers_with_process_1_cannot_both_write(image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    code = HOLD.replace('print("holding"', 'import os; print(f"process {os.getpid()}"')
    command = ["docker", "run", "--rm", "-i", "--network=none", "-v", f"{tmp_path}:/shared"]
    command += [IMAGE, "python", "-c", code, "/shared/claim"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert lines_of(first, 1) == ["process 1"], shlex.join(command)
        second = subprocess.run(command, input="\n", capture_output=True, text=True)
        assert "the output: must be made by one process at a time" in second.stderr
        assert second.stdout == ""
        first.communicate("\n")
    assert first.returncode == 0
    third = subprocess.run(command, input="\n", capture_output=True, text=True)
    assert third.stdout == "process 1\n"
