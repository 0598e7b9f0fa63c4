"""Prompt templates: the files in this folder by name, or a file of one's own. Nothing heavy is imported."""

import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from dynamicpo.core.errors import ConfigError, unknown_name
from dynamicpo.core.storage import fetch, is_remote

_KEYS = ("name", "separator", "answer", "prompts", "prompts_with_candidates")


def load_template(name: str, *, list_candidates: bool = False) -> dict[str, Any]:
    """A template file: one of ours by name, or a YAML file by path.

    Args:
        name: "movies", "music", "books", "games", "titles", or the path (or gs://) of a file with the same keys.
        list_candidates: The file must have prompts that list the candidates.

    Raises:
        ConfigError: No such template, or one that can't be used.
        DataError: A file in a bucket that can't be fetched.
    """
    folder = resources.files("dynamicpo.prompts") / "templates"
    shipped = sorted(
        path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml")
    )
    if name not in shipped and not is_remote(name) and not Path(name).is_file():
        raise unknown_name("template (or the path of a YAML file)", name, shipped)
    try:
        with tempfile.TemporaryDirectory() as work:
            file = folder / f"{name}.yaml" if name in shipped else fetch(name, Path(work))
            template = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{name}: must be YAML, but it can't be read ({error}). Correct the file."
        ) from error
    _check_template(name, template, list_candidates)
    return dict(template)


def _check_template(name: str, template: Any, list_candidates: bool) -> None:
    if not isinstance(template, dict) or not template.get("prompts"):
        raise ConfigError(
            f"{name}: must be a mapping with a list of prompts. See dynamicpo/prompts/templates/movies.yaml."
        )
    for key in template:
        if key not in _KEYS:
            raise unknown_name(f"{name}: key", str(key), _KEYS)
    texts = template.get("prompts_with_candidates", []) if list_candidates else template["prompts"]
    if not texts:
        raise ConfigError(
            f"{name}: needs prompts_with_candidates, as list_candidates is on. Add them to the file."
        )
    for text in [
        *(texts if isinstance(texts, list) else [[texts]]),
        template.get("separator", ""),
        template.get("answer", ""),
    ]:
        if not isinstance(text, str):
            raise ConfigError(
                f"{name}: prompts, separator and answer must be text (prompts a list of texts), got {text!r}."
            )
    for text in texts:
        if text.count("{history}") != 1 or text.count("{candidates}") != int(list_candidates):
            holes = "{history} and {candidates}" if list_candidates else "{history}"
            raise ConfigError(f"{name}: every prompt must hold {holes} once, got {text!r}.")
    if "{title}" not in template.get("answer", "{title}"):
        raise ConfigError(f"{name}: answer must hold {{title}}, got {template['answer']!r}.")
