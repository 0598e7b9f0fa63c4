"""Names that users give to the models of an evaluation."""

import re
from collections.abc import Iterable

from dynamicpo.core.choices import BASELINES
from dynamicpo.core.errors import ConfigError

_VALID_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OUTPUT_FILES = (
    "comparisons.json",
    "items.parquet",
    "manifest.json",
    "report.html",
    "rows.parquet",
    "run.json",
)


def check_model_names(names: Iterable[str]) -> None:
    """Refuse, all at once, names that can't be folders beside an evaluation's files and baselines.

    Raises:
        ConfigError: One line for each such name.
    """
    reserved = sorted({*BASELINES, *_OUTPUT_FILES})
    earlier_names: list[str] = []
    problems: list[str] = []
    for name in names:
        # Some disks ignore case: "SFT" and "sft" would share a folder there.
        folded = name.casefold()
        if not _VALID_NAME.fullmatch(name):
            requirement = (
                "must be up to 64 letters, digits, '.', '_' or '-' and start with a letter or digit"
            )
        elif folded in reserved:
            requirement = f"must not be one of {', '.join(reserved)}"
        elif folded in earlier_names:
            requirement = "must differ from the others in more than case"
        else:
            requirement = ""
        if requirement:
            problems.append(f"model name: {requirement}, got {name!r}. Rename it.")
        earlier_names.append(folded)
    if problems:
        raise ConfigError("\n".join(problems))


def short_version(name: str) -> str:
    """A version's name as people read it: as long as git's short names, unique among thousands."""
    return name[:12]
