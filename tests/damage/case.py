"""One case: a command on inputs of which one is damaged, within limits of time and memory."""

import contextlib
import io
import random
import re
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import yaml

from dynamicpo.cli.main import main
from dynamicpo.core.errors import DynamicPOError
from dynamicpo.core.messages import LINE_LIMIT, LINES_LIMIT
from dynamicpo.core.records.manifest import check_files, read_manifest
from tests.damage.files import damage_file
from tests.damage.targets import TARGETS, Target, target_of
from tests.fixtures.folders import rewrite_checksums

SECONDS = 10
MEMORY = 1 << 30
# Address space is reserved by threads and allocators that never use it.
_ADDRESSES = 6 * MEMORY
# Done, bad input, a check that failed.
_EXIT_CODES = (0, 2, 3)
# The cache of reference log-probabilities is kept on purpose, and checks itself.
_MAY_BE_LEFT = ("out", "out.yaml", ".out.claim", "reference-logps")
_ROOT = Path(__file__).resolve().parents[2]
_OURS = ("dynamicpo", "pipelines", "components")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Outcome(NamedTuple):
    """The outcome of a case.

    Attributes:
        number: The case.
        target: The command's name among the targets.
        damage: What was done to which input.
        code: The exit code; None where there is none.
        problem: Why the case failed; empty where it did not.
        place: File and line of our innermost function in a traceback.
        seconds: How long the command took.
        message: The last line on standard error.
    """

    number: int
    target: str
    damage: str
    code: int | None
    problem: str
    place: str
    seconds: float
    message: str


class TooSlowError(BaseException):
    """The alarm of a case: no handler of the command shall catch it."""


def run_whole(name: str, pristine: Path, folder: Path) -> int | None:
    """Run a target on whole inputs, without limits. Returns the exit code."""
    target = TARGETS[name]
    _copy_inputs(target, pristine, folder)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        return main(_argv(target))


def run_case(number: int, seed: int, pristine: Path, folder: Path) -> Outcome:
    """Run a case in a fresh folder; the same number and seed give the same case."""
    rng = random.Random(f"{seed}:{number}")
    name = target_of(number)
    target = TARGETS[name]
    _copy_inputs(target, pristine, folder)
    with contextlib.chdir(folder):
        damage = _damage(target, rng)
        before = {path.name for path in Path().iterdir()}
        outcome = _run(target)
        problem = outcome.problem or _half_written(target, outcome.code, before)
    return outcome._replace(number=number, target=name, damage=damage, problem=problem)


def _copy_inputs(target: Target, pristine: Path, folder: Path) -> None:
    for name in target.inputs:
        source, copy = pristine / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Not its times: checksums are remembered by them.
        if source.is_dir():
            shutil.copytree(source, copy, copy_function=shutil.copyfile, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, copy)


def _damage(target: Target, rng: random.Random) -> str:
    """Damage one input; in half of the cases its manifest is made to fit it."""
    source = Path(rng.choice(target.inputs))
    files = sorted(path for path in [source, *source.rglob("*")] if path.is_file())
    file = rng.choice([path for path in files if path.suffix != ".html"])
    damage = damage_file(file, rng)
    is_refitted = rng.random() < 0.5
    with contextlib.suppress(DynamicPOError):
        if is_refitted and (source / "manifest.json").is_file():
            rewrite_checksums(source)
    return f"{file}: {damage}{', checksums refitted' if is_refitted else ''}"


def _argv(target: Target) -> list[str]:
    argv = target.argv
    if "CELLS" in argv:
        at = argv.index("CELLS")
        argv[at : at + 1] = sorted(str(path) for path in Path("cells").iterdir())
    return argv


def _run(target: Target) -> Outcome:
    argv = _argv(target)
    stdout, stderr = io.StringIO(), io.StringIO()
    code, problem, place = None, "", ""
    with _measured() as measures, contextlib.redirect_stdout(stdout):
        with contextlib.redirect_stderr(stderr):
            try:
                with alarm():
                    code = main(argv)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                text = " ".join(str(error).split())[:200]
                problem, place = f"{type(error).__name__}: {text}", _place(error)
    printed = stdout.getvalue() + stderr.getvalue()
    problem = problem or _problem(code, printed, measures["memory"])
    message = (stderr.getvalue().splitlines() or [""])[-1][:300]
    return Outcome(0, "", "", code, problem, place, measures["seconds"], message)


def _problem(code: int | None, printed: str, memory: float) -> str:
    if code not in _EXIT_CODES:
        return f"exit code {code}"
    if "Traceback" in printed:
        return "a traceback was printed"
    if _CONTROL.search(printed):
        return "a control character was printed"
    if memory > MEMORY:
        return f"{memory / MEMORY:.1f} GB more than before"
    _, _, message = printed.partition("dynamicpo: ")
    lines = message.splitlines()
    if code == 2 and len(lines) > LINES_LIMIT + 1:
        return f"a message of {len(lines)} lines"
    if code == 2 and max(map(len, lines), default=0) > 3 * LINE_LIMIT:
        return f"a message with a line of {max(map(len, lines))} characters"
    return ""


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Stop what takes longer than a case may."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlowError(f"longer than {SECONDS} s")

    # Of the processor: other processes may take it. A command that waits has an alarm of its own.
    timers = {
        signal.ITIMER_PROF: (signal.SIGPROF, SECONDS),
        signal.ITIMER_REAL: (signal.SIGALRM, 20 * SECONDS),
    }
    for timer, (number, seconds) in timers.items():
        signal.signal(number, stop)
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)


@contextlib.contextmanager
def _measured() -> Iterator[dict[str, float]]:
    """Seconds, and bytes in memory above those before."""
    measures: dict[str, float] = {}
    # The peak begins anew.
    Path("/proc/self/clear_refs").write_text("5")
    idle = _status("VmRSS")
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + _ADDRESSES, unlimited[1]))
    started = time.monotonic()
    try:
        yield measures
    finally:
        measures["seconds"] = round(time.monotonic() - started, 3)
        measures["memory"] = _status("VmHWM") - idle
        resource.setrlimit(resource.RLIMIT_AS, unlimited)


def _status(name: str) -> int:
    """A figure of this process in bytes."""
    text = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(rf"{name}:\s+(\d+)", text)
    return int(kilobytes) * 1024


def _place(error: BaseException) -> str:
    """File and line of our innermost function."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OURS:
            return f"{path.relative_to(_ROOT)}:{frame.lineno}"
    return ""


def _store_of(target: Target) -> str:
    """The store that the settings of a target name; empty where they name none."""
    (settings,) = [name for name in target.inputs if name.startswith("settings/")] or [""]
    content = yaml.safe_load(Path(settings).read_text()) if settings else None
    return str(content.get("store", "")) if isinstance(content, dict) else ""


def _half_written(target: Target, code: int | None, before: set[str]) -> str:
    """The output that was left though the command failed, or that is not whole."""
    left = sorted(path.name for path in Path().iterdir() if path.name not in before)
    unexpected = [name for name in left if name not in _MAY_BE_LEFT]
    # A store that damaged settings name is made, as one that a user names.
    if code == 0 and unexpected == [_store_of(target)]:
        unexpected = []
    if unexpected:
        return f"left {unexpected}"
    if code == 0 and target.output:
        try:
            check_files(Path("out"), read_manifest(Path("out")))
        except DynamicPOError as error:
            return f"no whole output ({error})"
    if code != 0 and "out" in left:
        return "an output though it failed"
    return ""
