"""Values of flags and files, and the result that the commands of all stages share."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamicpo.cli.results import StageResult
from dynamicpo.core import storage
from dynamicpo.core.errors import ConfigError, unknown_name
from dynamicpo.core.json_values import JsonValue
from dynamicpo.core.records.manifest import Manifest


def read_yaml(path: str | None, known: Collection[str] | None = None) -> dict[str, JsonValue]:
    """The content of a YAML file of settings; nothing without a file.

    Args:
        path: The file.
        known: The keys that it may hold (default: any).

    Raises:
        ConfigError: It is no YAML, no mapping, or holds an unknown key.
    """
    if not path:
        return {}
    import yaml  # 20 ms, which a command without a file need not wait for

    try:
        is_stored = storage.is_remote(path)
        content = storage.read_bytes(path) if is_stored else Path(path).read_bytes()
        values = yaml.safe_load(content.decode())
    # A file that is not text, such as an archive, fails before YAML is parsed. A RecursionError:
    # brackets within brackets, thousands of them.
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: must be YAML, but it can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold names and values, got {type(values).__name__}.")
    for key in values:
        if known is not None and key not in known:
            raise unknown_name(path, str(key), known)
    return values


# Any: each file has a shape of its own, which its reader knows.
def read_json(path: Path) -> Any:
    """The content of a JSON file of ours."""
    return json.loads(path.read_text(encoding="utf-8"))


def parse_pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE texts as a dictionary.

    Raises:
        ConfigError: A text without "=".
    """
    values = {}
    for text in texts:
        # At the first "=": values may have more, such as labels of nodes.
        name, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"{flag}: must be NAME=VALUE, got {text!r}.")
        values[name] = value
    return values


def settings_of(path: str | None, flag: str, texts: Sequence[str]) -> Mapping[str, JsonValue]:
    """Settings of a YAML file and of a repeated flag, which wins."""
    return {**read_yaml(path), **parse_pairs(flag, texts)}


def stage_result(manifest: Manifest, output: Path | str) -> StageResult:
    """The result of a command that made a folder; text is printed as the user wrote it."""
    return {
        "output": str(output),
        "fingerprint": manifest.fingerprint,
        "counts": manifest.counts,
    }
