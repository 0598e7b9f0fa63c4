"""Prompt templates: their keys, their placeholders, and the checks of a user's own template."""

from collections.abc import Mapping
from typing import Required, TypedDict

from dynamicpo.core.errors import ConfigError, unknown_name

HISTORY = "{history}"
CANDIDATES_PLACEHOLDER = "{candidates}"
TITLE = "{title}"

DEFAULT_SEPARATOR = "\n"
DEFAULT_ANSWER = TITLE


class PromptTemplate(TypedDict, total=False):
    """The content of a template file; all but `prompts` may be missing.

    Attributes:
        name: The template's name, for people.
        separator: The text after each item of a list.
        answer: The text of an answer, with {title} in it.
        prompts: Texts with {history} in them; each row gets one of them at random.
        prompts_with_candidates: The same with {candidates} as well.
    """

    name: str
    separator: str
    answer: str
    prompts: Required[list[str]]
    prompts_with_candidates: list[str]


# For a model that has a token for each item and no words: the history is the prompt.
PLAIN_TEMPLATE: PromptTemplate = {
    "name": "items",
    "separator": "",
    "answer": TITLE,
    "prompts": [HISTORY],
}


def check_template(source: str, template: object, *, list_candidates: bool) -> None:
    """Refuse what a YAML file holds where it can't be used as a template.

    Args:
        source: The file, for messages.
        template: The content of the file.
        list_candidates: The template must have prompts that list the candidates.

    Raises:
        ConfigError: The first problem.
    """
    if not isinstance(template, dict) or not template.get("prompts"):
        raise ConfigError(
            f"{source}: must be a mapping with a list of prompts. "
            "See dynamicpo/prompts/templates/movies.yaml."
        )
    known_keys = tuple(PromptTemplate.__annotations__)
    for key in template:
        if key not in known_keys:
            raise unknown_name(f"{source}: key", str(key), known_keys)
    prompts = (
        template.get("prompts_with_candidates", []) if list_candidates else template["prompts"]
    )
    if not prompts:
        raise ConfigError(
            f"{source}: needs prompts_with_candidates, as list_candidates is on. "
            "Add them to the file."
        )
    _check_types(source, template, prompts)
    _check_placeholders(source, template, prompts, list_candidates)


def _check_types(source: str, template: Mapping[str, object], prompts: object) -> None:
    # A single text would be read letter by letter below.
    texts = list(prompts) if isinstance(prompts, list) else [[prompts]]
    texts.append(template.get("separator", ""))
    texts.append(template.get("answer", ""))
    for text in texts:
        if not isinstance(text, str):
            raise ConfigError(
                f"{source}: prompts, separator and answer must be text (prompts a list of texts), "
                f"got {text!r}."
            )


def _check_placeholders(
    source: str, template: Mapping[str, object], prompts: list[str], list_candidates: bool
) -> None:
    # A list of candidates where none are given would ask for a choice among nothing.
    num_candidate_lists = 1 if list_candidates else 0
    required = HISTORY
    if list_candidates:
        required = f"{HISTORY} and {CANDIDATES_PLACEHOLDER}"
    for text in prompts:
        num_found = (text.count(HISTORY), text.count(CANDIDATES_PLACEHOLDER))
        if num_found != (1, num_candidate_lists):
            raise ConfigError(f"{source}: every prompt must hold {required} once, got {text!r}.")
    answer = str(template.get("answer", DEFAULT_ANSWER))
    if TITLE not in answer:
        raise ConfigError(f"{source}: answer must hold {TITLE}, got {answer!r}.")
