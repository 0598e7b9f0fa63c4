"""The Git commit of this package, for summaries of runs and names of pipeline versions."""

import shutil
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
# A compiled pipeline depends on these folders alone: a change of a test does not make it another.
SOURCE_FOLDERS = ("dynamicpo", "components", "pipelines")


def commit() -> str:
    """The commit that the package stands at; empty where it stands in no repository."""
    return _git("rev-parse", "HEAD")


def changed() -> bool:
    """Tell whether sources that make a pipeline differ from the commit."""
    return bool(_git("status", "--porcelain", "--", *SOURCE_FOLDERS))


def _git(*arguments: str) -> str:
    program = shutil.which("git")
    repository = PACKAGE.parent
    # Without this check git searches the folders above: an installed package below somebody else's
    # repository would get the commit of that one.
    if not program or not (repository / ".git").exists():
        return ""
    command = [program, "-C", str(repository), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip()
