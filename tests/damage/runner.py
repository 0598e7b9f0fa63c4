"""Cases in processes of their own, which may crash or hang: both are outcomes."""

import contextlib
import gc
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from tests.damage.targets import TARGETS, target_of

# A command that is stuck in a library hears no alarm: seconds of the processor, then of the clock.
_KILLED_AFTER = (30, 600)
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
# Whole inputs; the address of `parameters` answers to nobody.
EXPECTED = {name: 2 if name == "parameters" else 0 for name in TARGETS}

Record = dict[str, object]
_NO_ANSWER = "crashed, stuck, or failed on whole inputs"


@contextlib.contextmanager
def pristine_inputs() -> Iterator[Path]:
    """A temporary folder with all inputs, written by a process of its own."""
    os.environ.update(_ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="damage-") as folder:
        process = multiprocessing.get_context("spawn").Process(target=_write, args=(folder,))
        process.start()
        process.join()
        assert process.exitcode == 0
        yield Path(folder)


def _write(folder: str) -> None:
    from tests.damage.pristine import write_pristine

    write_pristine(Path(folder))


def run_cases(
    pristine: Path, numbers: Sequence[int], seed: int, workers: int = 1
) -> Iterator[Record]:
    """Run cases, and give the outcome of each as it comes."""
    os.environ.update(_ENVIRONMENT)
    done: SimpleQueue[Record | BaseException] = SimpleQueue()
    for start in range(workers):
        arguments = (pristine, numbers[start::workers], seed, done)
        threading.Thread(target=_run_share, args=arguments, daemon=True).start()
    for _ in numbers:
        record = done.get()
        if isinstance(record, BaseException):
            raise record
        yield record


def _run_share(
    pristine: Path,
    numbers: Sequence[int],
    seed: int,
    done: "SimpleQueue[Record | BaseException]",
) -> None:
    worker = _Worker(pristine, seed)
    try:
        for number in numbers:
            record = worker.run(number)
            if record is None:
                record = {"number": number, "target": target_of(number), "problem": _NO_ANSWER}
                worker = _Worker(pristine, seed)
            done.put(record)
    except BaseException as error:
        done.put(error)
    finally:
        worker.stop()


class _Worker:
    """A process that runs cases."""

    def __init__(self, pristine: Path, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, pristine, seed), daemon=True)
        self._process.start()
        other.close()

    def run(self, number: int) -> Record | None:
        """The outcome of a case; None where the process did not live to tell it."""
        self._connection.send(number)
        with contextlib.suppress(EOFError):
            if self._has_answered():
                return self._connection.recv()
        self.stop()
        return None

    def _has_answered(self) -> bool:
        most_used, most_waited = _KILLED_AFTER
        started, used_before = time.monotonic(), self._seconds_used()
        while not self._connection.poll(1):
            if self._seconds_used() - used_before > most_used:
                return False
            if time.monotonic() - started > most_waited:
                return False
        return True

    def _seconds_used(self) -> float:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _serve(connection: Connection, pristine: Path, seed: int) -> None:
    from tests.damage.case import run_case, run_whole
    from tests.damage.charts import remember_charts

    remember_charts()
    scratch = Path(tempfile.mkdtemp(prefix="cases-"))
    seen: set[str] = set()
    with contextlib.suppress(EOFError):
        while True:
            number = connection.recv()
            name = target_of(number)
            # What is imported and compiled once is no part of a case.
            if name not in seen:
                code = _in(scratch, run_whole, name, pristine)
                assert code == EXPECTED[name], f"{name} on whole inputs: exit code {code}"
                seen.add(name)
                # Libraries collect garbage at each step, which would look at all modules again.
                gc.collect()
                gc.freeze()
            connection.send(_in(scratch, run_case, number, seed, pristine)._asdict())


def _in(scratch: Path, run, *arguments):
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        return run(*arguments, Path(folder))
