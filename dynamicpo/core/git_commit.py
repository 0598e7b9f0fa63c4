"""Which commit this package is of."""

import shutil
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SOURCE_FOLDERS = ("dynamicpo", "components", "pipelines")


def commit() -> str:
    """The commit that the package stands at; empty where it stands in no repository."""
    return _git("rev-parse", "HEAD")


def changed() -> bool:
    """Whether sources that make a pipeline differ from the commit."""
    return bool(_git("status", "--porcelain", "--", *SOURCE_FOLDERS))


def _git(*arguments: str) -> str:
    program = shutil.which("git")
    if not program or not (PACKAGE.parent / ".git").exists():
        return ""
    command = [program, "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
