"""Preference rows to token ids: the one place where a prompt is built, for training and scoring alike.

A prompt is put together from pieces that are tokenised apart and once (the template's texts, each
item's line, each item's answer), so training and inference see the very same tokens, the place of every
history item is known, and the oldest items can be cut when a prompt is too long. An answer is never cut.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dynamicpo.core import random_keys
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import Row

PLAIN_TEMPLATE: dict[str, Any] = {
    "name": "items",
    "separator": "",
    "answer": "{title}",
    "prompts": ["{history}"],
}
_HOLES = ("{history}", "{candidates}")


@dataclass(frozen=True)
class PromptSettings:
    """What a model needs to be given its prompts as it was trained; kept in its manifest.

    Attributes:
        item_text: "title", or "token" (one token for each item).
        template: The content of a template file.
        list_candidates: Whether the prompt lists the candidates.
        max_length: Longest prompt plus answer, in tokens.
    """

    item_text: str
    template: dict[str, Any]
    list_candidates: bool
    max_length: int


def item_token(item_id: str) -> str:
    """The name of an item's own token."""
    return f"<item:{item_id}>"


class Prompts:
    """Builds rows of token ids.

    Args:
        tokenizer: A fast tokenizer of transformers.
        items: The items table.
        settings: What the model is given.

    Attributes:
        cut_items: How many history items were cut so far because a prompt was too long.
    """

    def __init__(self, tokenizer: Any, items: pd.DataFrame, settings: PromptSettings) -> None:
        """Tokenise every piece once."""
        self.settings, self.cut_items = settings, 0
        self._tokenizer = tokenizer
        template = settings.template
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        texts = (
            template["prompts_with_candidates"] if settings.list_candidates else template["prompts"]
        )
        self._templates = [self._pieces(text, start) for text in texts]
        ids = items["item_id"].tolist()
        if settings.item_text == "token":
            known = tokenizer.get_vocab()
            self._lines = {
                name: [known[item_token(name)]] for name in ids if item_token(name) in known
            }
            self._answers = {name: line + end for name, line in self._lines.items()}
        else:
            titles, separator = items["title"].tolist(), template.get("separator", "\n")
            answer = template.get("answer", "{title}")
            lines = self._tokens([title + separator for title in titles])
            answers = self._tokens([answer.replace("{title}", title) for title in titles])
            self._lines = dict(zip(ids, lines, strict=True))
            self._answers = {name: tokens + end for name, tokens in zip(ids, answers, strict=True)}

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def _pieces(self, text: str, start: list[int]) -> list[str | list[int]]:
        parts = [part for part in re.split(r"(\{history\}|\{candidates\})", text) if part]
        pieces = [part if part in _HOLES else self._tokens([part])[0] for part in parts]
        return [start, *pieces] if start else pieces

    def row(
        self,
        example_id: str,
        history: Sequence[str],
        answers: Sequence[str],
        candidates: Sequence[str] = (),
    ) -> Row:
        """A prompt and its answers, each with the end-of-sequence token where the tokenizer has one.

        Args:
            example_id: Chooses the template.
            history: Item ids, oldest first.
            answers: Item ids.
            candidates: Item ids to list, where the settings say so.

        Raises:
            DataError: An item the model doesn't know, or a prompt that is too long even with one history item.
        """
        answer_ids = [self._item(self._answers, name, example_id) for name in answers]
        prompt, _ = self._prompt(example_id, history, candidates, max(map(len, answer_ids)))
        return Row(prompt, answer_ids)

    def answers(self, names: Sequence[str]) -> list[list[int]]:
        """The answers of some items, whatever the prompt."""
        return [self._item(self._answers, name, "of every item") for name in names]

    def prompt(self, example_id: str, history: Sequence[str], answer_length: int) -> list[int]:
        """A prompt that lists no candidates, with room for an answer of so many tokens."""
        return self._prompt(example_id, history, (), answer_length)[0]

    def training_row(
        self, example_id: str, history: Sequence[str], target: str, candidates: Sequence[str] = ()
    ) -> tuple[list[int], list[str]]:
        """A prompt with its answer as one sequence, and for each token "text", "history" or "answer"."""
        answer = self._item(self._answers, target, example_id)
        prompt, kinds = self._prompt(example_id, history, candidates, len(answer))
        return prompt + answer, kinds + ["answer"] * len(answer)

    def without_history(self, answers: Sequence[str]) -> Row:
        """The same answers after a prompt whose history is empty: the first template, no candidates."""
        pieces = self._templates[0]
        prompt = [token for piece in pieces if not isinstance(piece, str) for token in piece]
        if not prompt:
            prompt = self._tokens(["\n"])[0]
        return Row(prompt, [self._item(self._answers, name, "title") for name in answers])

    def title_of(self, tokens: Sequence[int]) -> str:
        """The text of generated tokens, without special ones."""
        if self.settings.item_text == "token":
            return " ".join(self._tokenizer.convert_ids_to_tokens(list(tokens)))
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def _item(self, table: dict[str, list[int]], name: str, example_id: str) -> list[int]:
        try:
            return table[name]
        except KeyError as error:
            raise DataError(
                f"row {example_id}: every item must be known to the model, item {name!r} is not. "
                "Use the items the model was trained with, or train it again."
            ) from error

    def _prompt(
        self, example_id: str, history: Sequence[str], candidates: Sequence[str], answer_length: int
    ) -> tuple[list[int], list[str]]:
        choice = 0
        if len(self._templates) > 1:
            choice = int(
                random_keys.integers(
                    random_keys.keys(0, "template", [example_id]), 0, len(self._templates)
                )[0]
            )
        lines = [self._item(self._lines, name, example_id) for name in history]
        listed = [
            token for name in candidates for token in self._item(self._lines, name, example_id)
        ]
        fixed = sum(len(piece) for piece in self._templates[choice] if not isinstance(piece, str))
        fixed += len(listed) if self.settings.list_candidates else 0
        room = self.settings.max_length - answer_length - fixed
        first = self._first_kept(lines, room)
        if first == len(lines) and lines:
            raise DataError(
                f"row {example_id}: prompt and answer must fit into max_length = {self.settings.max_length} tokens, "
                f"but they need {fixed + len(lines[-1]) + answer_length} with one history item. Raise max_length."
            )
        self.cut_items += first
        kept = [token for line in lines[first:] for token in line]
        prompt: list[int] = []
        kinds: list[str] = []
        for piece in self._templates[choice]:
            tokens = (
                piece if not isinstance(piece, str) else kept if piece == "{history}" else listed
            )
            prompt += tokens
            kinds += ["history" if piece == "{history}" else "text"] * len(tokens)
        return prompt, kinds

    @staticmethod
    def _first_kept(lines: list[list[int]], room: int) -> int:
        first = len(lines)
        while first > 0 and len(lines[first - 1]) <= room:
            first -= 1
            room -= len(lines[first])
        return first
