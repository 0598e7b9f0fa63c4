"""Values that commands are given, and what they give back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamicpo.core.errors import ConfigError, unknown_name

Values = Mapping[str, Any]


def read_yaml(path: str | None, known: Sequence[str] | None = None) -> dict[str, Any]:
    """A YAML file of settings; with `known`, unknown keys are refused."""
    if not path:
        return {}
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: must be YAML, but it can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold names and values, got {type(values).__name__}.")
    for key in values:
        if known is not None and key not in known:
            raise unknown_name(path, str(key), known)
    return values


def pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE texts as a dictionary."""
    for text in texts:
        if "=" not in text:
            raise ConfigError(f"{flag}: must be NAME=VALUE, got {text!r}.")
    return dict((text.split("=", 1)[0], text.split("=", 1)[1]) for text in texts)


def result_of(manifest: Any, paths: Values) -> dict[str, Any]:
    """What a command says of a folder that it made."""
    return {
        "output": str(paths["output"]),
        "fingerprint": manifest.fingerprint,
        "counts": manifest.counts,
    }
