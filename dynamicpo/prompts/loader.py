"""Template files: those in this package by name, or a user's own by path."""

import tempfile
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

from dynamicpo.core.errors import ConfigError, unknown_name
from dynamicpo.core.storage import fetch, is_remote
from dynamicpo.prompts.template import PromptTemplate, check_template

_SUFFIX = ".yaml"


def load_template(name: str, *, list_candidates: bool = False) -> PromptTemplate:
    """A template file: one of ours by name, or a YAML file by path.

    Args:
        name: "movies", "music", "books", "games", "titles", or the path or URI of a file with
            the same keys.
        list_candidates: The file must have prompts that list the candidates.

    Raises:
        ConfigError: No such template, or one that can't be used.
        DataError: A file in a bucket that can't be fetched.
    """
    shipped = _shipped_templates()
    # Our names win over files: a folder that happens to hold a file "movies" changes nothing.
    is_shipped = name in shipped
    is_file = is_remote(name) or Path(name).is_file()
    if not (is_shipped or is_file):
        raise unknown_name("template (or the path of a YAML file)", name, shipped)
    try:
        # A copy from a bucket lives as long as this block.
        with tempfile.TemporaryDirectory() as folder:
            file = shipped[name] if is_shipped else fetch(name, Path(folder))
            text = file.read_text(encoding="utf-8")
        template = yaml.safe_load(text)
    # A RecursionError: brackets within brackets, thousands of them.
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{name}: must be YAML, but it can't be read ({error}). Correct the file."
        ) from error
    check_template(name, template, list_candidates=list_candidates)
    checked: PromptTemplate = template
    return checked


def _shipped_templates() -> dict[str, Traversable]:
    # As resources: an installed package may be a zip file.
    folder = resources.files("dynamicpo.prompts") / "templates"
    templates = {}
    for file in folder.iterdir():
        if file.name.endswith(_SUFFIX):
            name = file.name.removesuffix(_SUFFIX)
            templates[name] = file
    return templates
