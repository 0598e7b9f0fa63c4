"""Names that users give to models of an evaluation."""

import re
from collections.abc import Iterable

from dynamicpo.core.choices import BASELINES
from dynamicpo.core.errors import ConfigError

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILES = (
    "comparisons.json",
    "items.parquet",
    "manifest.json",
    "report.html",
    "rows.parquet",
    "run.json",
)


def check_model_names(names: Iterable[str]) -> None:
    """Refuse, all at once, names that can't be folders of an evaluation beside its files and baselines.

    Raises:
        ConfigError: One line for each such name.
    """
    taken = sorted({*BASELINES, *_FILES})
    problems: list[str] = []
    earlier: list[str] = []
    for name in names:
        must = ""
        if not _PLAIN.fullmatch(name):
            must = (
                "must be up to 64 letters, digits, '.', '_' or '-' and start with a letter or digit"
            )
        elif name.casefold() in taken:
            must = f"must not be one of {', '.join(taken)}"
        elif name.casefold() in earlier:
            must = "must differ from the others in more than case"
        problems += [f"model name: {must}, got {name!r}. Rename it."] if must else []
        earlier.append(name.casefold())
    if problems:
        raise ConfigError("\n".join(problems))
