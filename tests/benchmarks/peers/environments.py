"""Environments of the peers, under `build/peers`: libraries in other versions than the project's.

Each is an environment of its own whose last search path is the project's, so that torch and what
else fits is shared and nothing large is fetched. Requirements are pinned and complete: pip resolves
nothing.
"""

import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

from tests.conftest import ROOT

FOLDER = ROOT / "build" / "peers"
_REQUIREMENTS = Path(__file__).parent
# Written last: an environment that lacks it, or holds others, is made anew.
_INSTALLED = "installed.txt"


class PeerError(Exception):
    """What a peer's installation or process ended with, in its own words."""


def environment_python(name: str, requirements: Path | None = None) -> Path:
    """The interpreter of a peer's environment, which is made where it is not there as required.

    Args:
        name: The environment's name.
        requirements: Its requirements; None: those beside this file.

    Raises:
        PeerError: Something can't be installed.
    """
    folder = FOLDER / name
    requirements = requirements or _REQUIREMENTS / f"requirements-{name}.txt"
    wanted = requirements.read_text(encoding="utf-8")
    python = folder / "bin" / "python"
    installed = folder / _INSTALLED
    found = installed.read_text(encoding="utf-8") if installed.is_file() else None
    if found == wanted:
        return python
    start = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False, symlinks=True)
    _share_packages(folder)
    _install(python, requirements)
    installed.write_text(wanted, encoding="utf-8")
    taken = time.perf_counter() - start
    print(f"{folder}: made in {taken:.0f} s", flush=True)
    return python


def _share_packages(folder: Path) -> None:
    """Put the project's packages last on the path: what the environment has itself comes first."""
    (packages,) = folder.glob("lib/python*/site-packages")
    shared = sysconfig.get_path("purelib")
    path = packages / "shared.pth"
    path.write_text(f"{shared}\n", encoding="utf-8")


def _install(python: Path, requirements: Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    command += ["--no-deps", "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return
    error = last_error(done.stderr)
    raise PeerError(error or f"pip ended with {done.returncode}")


def last_error(text: str) -> str:
    """The end of what a process wrote to stderr: from the last line that names an error on."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    start = max(len(lines) - 1, 0)
    for number, line in enumerate(lines):
        if "error" in line.lower():
            start = number
    end = lines[start:]
    return " ".join(end)
