"""Preference rows to token ids: the one place where prompts are built, for training and scoring.

A prompt is put together from segments that are tokenised apart and once (the template's texts, each
item's line, each item's answer), so training and inference see the very same tokens, the positions
of every history item are known, and the oldest items can be cut when a prompt is too long. An
answer is never cut.
"""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pandas as pd

from dynamicpo.core import random_keys
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import Row
from dynamicpo.prompts.plain_text import TitleTokeniser, TokenIds
from dynamicpo.prompts.template import (
    CANDIDATES_PLACEHOLDER,
    DEFAULT_ANSWER,
    DEFAULT_SEPARATOR,
    HISTORY,
    TITLE,
    PromptTemplate,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TokenKind = Literal["text", "history", "answer"]

# Ends answers where the tokenizer has no token for it: titles are single lines.
_LINE_END = "\n"
_PLACEHOLDERS = re.compile(r"(\{history\}|\{candidates\})")


@dataclass(frozen=True)
class PromptSettings:
    """The settings that a model's prompts were built with in training; kept in its manifest.

    Attributes:
        item_text: "title", or "token" (one token for each item).
        template: The content of a template file.
        list_candidates: The prompt lists the candidates.
        max_length: Longest prompt plus answer, in tokens.
    """

    item_text: str
    template: PromptTemplate
    list_candidates: bool
    max_length: int


@dataclass(frozen=True)
class _TokenisedTemplate:
    """One prompt text, as token ids and placeholders in turn.

    Attributes:
        segments: Token ids of a text, or the name of a placeholder.
        text_ids: The texts without the placeholders.
    """

    segments: Sequence[TokenIds | str]
    text_ids: TokenIds

    def fill(
        self, history_ids: TokenIds, candidate_ids: TokenIds
    ) -> tuple[TokenIds, list[TokenKind]]:
        """The prompt, and for each of its tokens its kind."""
        prompt_ids: TokenIds = []
        kinds: list[TokenKind] = []
        for segment in self.segments:
            kind: TokenKind = "text"
            if isinstance(segment, list):
                ids = segment
            elif segment == HISTORY:
                ids = history_ids
                kind = "history"
            else:
                ids = candidate_ids
            prompt_ids += ids
            kinds += [kind] * len(ids)
        return prompt_ids, kinds


def item_token(item_id: str) -> str:
    """The name of an item's own token."""
    return f"<item:{item_id}>"


class Prompts:
    """Builds rows of token ids.

    Args:
        tokenizer: A fast tokenizer of transformers.
        items: The items table.
        settings: The settings that the model's prompts are built with.

    Attributes:
        cut_items: The number of history items cut so far because a prompt was too long.
        end_ids: The tokens that end every answer; none where items are tokens without an end.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        items: pd.DataFrame,
        settings: PromptSettings,
    ) -> None:
        """Tokenise every segment once."""
        self.settings = settings
        self.cut_items = 0
        self._tokenizer = tokenizer
        self._titles = TitleTokeniser(tokenizer)
        self.end_ids = self._find_end()
        self._templates = self._tokenise_templates()
        if settings.item_text == "token":
            lines = self._item_tokens(items)
            answers = lines
        else:
            lines = self._tokenise_lines(items)
            answers = self._tokenise_answers(items)
        self._line_ids = lines
        self._answer_ids = self._with_end(answers)

    @property
    def item_ids(self) -> Set[str]:
        """The items that the model can write: all that have a title, or a token of their own."""
        return self._answer_ids.keys()

    def row(
        self,
        example_id: str,
        history: Sequence[str],
        answers: Sequence[str],
        candidates: Sequence[str] = (),
    ) -> Row:
        """A prompt and its answers, each with the end-of-sequence token if the tokenizer has one.

        Args:
            example_id: Chooses the template.
            history: Item ids, oldest first.
            answers: Item ids.
            candidates: Item ids to list, where the settings say so.

        Raises:
            DataError: An item the model doesn't know, or a prompt that is too long even with one
                history item.
        """
        where = f"row {example_id}"
        answer_ids = self._lookup(self._answer_ids, answers, where)
        # One prompt for all of a row's answers, so that their scores can be compared.
        lengths = [len(ids) for ids in answer_ids]
        longest = max(lengths)
        prompt_ids, _ = self._prompt(example_id, history, candidates, longest)
        return Row(prompt_ids, answer_ids)

    def answers(self, item_ids: Sequence[str]) -> list[TokenIds]:
        """The answers of some items, whatever the prompt."""
        return self._lookup(self._answer_ids, item_ids, "items")

    def prompt(self, example_id: str, history: Sequence[str], answer_length: int) -> TokenIds:
        """A prompt that lists no candidates, with room for an answer of so many tokens."""
        prompt_ids, _ = self._prompt(example_id, history, (), answer_length)
        return prompt_ids

    def training_row(
        self, example_id: str, history: Sequence[str], target: str, candidates: Sequence[str] = ()
    ) -> tuple[TokenIds, list[TokenKind]]:
        """A prompt with its answer as one sequence, and for each token its kind."""
        where = f"row {example_id}"
        (answer_ids,) = self._lookup(self._answer_ids, [target], where)
        num_answer_tokens = len(answer_ids)
        prompt_ids, kinds = self._prompt(example_id, history, candidates, num_answer_tokens)
        token_ids = prompt_ids + answer_ids
        kinds += ["answer"] * num_answer_tokens
        return token_ids, kinds

    def without_history(self, answers: Sequence[str]) -> Row:
        """The same answers after a prompt without history: the first template, no candidates."""
        # A template may be its placeholder alone, but a model needs a token to predict from.
        prompt_ids = self._templates[0].text_ids or self._titles.tokenise([_LINE_END])[0]
        return Row(prompt_ids, self.answers(answers))

    def answer_text(self, item_id: str) -> str:
        """The text of an item's answer as a model that generates it is read.

        Some tokenizers lose accents, or spaces before punctuation: it may differ from the title.
        """
        return self.title_of(self._answer_ids[item_id])

    def title_of(self, token_ids: Sequence[int]) -> str:
        """The text of an answer's tokens, without special ones and the end."""
        ids = list(token_ids)
        if self.end_ids and ids[-len(self.end_ids) :] == self.end_ids:
            ids = ids[: -len(self.end_ids)]
        # Their names: `decode` joins added tokens in its own way.
        if self.settings.item_text == "token":
            names = self._tokenizer.convert_ids_to_tokens(ids)
            return " ".join(names)
        text = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        return text.strip()

    def _tokenise_templates(self) -> list[_TokenisedTemplate]:
        template = self.settings.template
        if self.settings.list_candidates:
            texts = template["prompts_with_candidates"]
        else:
            texts = template["prompts"]
        return [self._tokenise_template(text) for text in texts]

    def _tokenise_template(self, text: str) -> _TokenisedTemplate:
        segments: list[TokenIds | str] = []
        text_ids: TokenIds = []
        start_id = self._tokenizer.bos_token_id
        if start_id is not None:
            segments.append([start_id])
            text_ids.append(start_id)
        # The group in the pattern makes `split` return the placeholders, too.
        for part in _PLACEHOLDERS.split(text):
            if part in (HISTORY, CANDIDATES_PLACEHOLDER):
                segments.append(part)
            elif part:
                (part_ids,) = self._titles.tokenise([part])
                segments.append(part_ids)
                text_ids += part_ids
        return _TokenisedTemplate(segments, text_ids)

    def _tokenise_lines(self, items: pd.DataFrame) -> dict[str, TokenIds]:
        """The tokens of each item in a list, with the separator after it."""
        template = self.settings.template
        separator = template.get("separator", DEFAULT_SEPARATOR)
        lines = self._titles.tokenise_titles(TITLE + separator, items["title"].tolist())
        item_ids = items["item_id"].tolist()
        return dict(zip(item_ids, lines, strict=True))

    def _tokenise_answers(self, items: pd.DataFrame) -> dict[str, TokenIds]:
        """The tokens of each item as an answer."""
        template = self.settings.template
        answer = template.get("answer", DEFAULT_ANSWER)
        answers = self._titles.tokenise_titles(answer, items["title"].tolist())
        item_ids = items["item_id"].tolist()
        return dict(zip(item_ids, answers, strict=True))

    def _item_tokens(self, items: pd.DataFrame) -> dict[str, TokenIds]:
        """The token of each item that the model was trained with; later items have none."""
        # Once: a tokenizer makes a new dictionary at each call.
        vocabulary = self._tokenizer.get_vocab()
        tokens = {}
        for item_id in items["item_id"]:
            name = item_token(item_id)
            if name in vocabulary:
                tokens[item_id] = [vocabulary[name]]
        return tokens

    def _find_end(self) -> TokenIds:
        end_id = self._tokenizer.eos_token_id
        if end_id is not None:
            return [end_id]
        # An item that is one token needs no end.
        if self.settings.item_text == "token":
            return []
        (end_ids,) = self._titles.tokenise([_LINE_END])
        if not end_ids:
            raise DataError(
                "tokenizer: must have an end-of-sequence token, or tokens for the end of a line, "
                "so that answers can end, but has neither. Set its eos_token."
            )
        return end_ids

    def _with_end(self, answers: Mapping[str, TokenIds]) -> dict[str, TokenIds]:
        # Without an end, a title that begins another ("Alien", "Aliens") would always score higher.
        ended = {item_id: [*token_ids, *self.end_ids] for item_id, token_ids in answers.items()}
        if self.end_ids and self._tokenizer.eos_token_id is None:
            _check_ends(ended)
        return ended

    @staticmethod
    def _lookup(
        table: Mapping[str, TokenIds], item_ids: Sequence[str], where: str
    ) -> list[TokenIds]:
        try:
            return [table[name] for name in item_ids]
        except KeyError as error:
            raise DataError(
                f"{where}: every item must be known to the model, item {error.args[0]!r} is not. "
                "Use the items the model was trained with, or train it again."
            ) from error

    def _prompt(
        self, example_id: str, history: Sequence[str], candidates: Sequence[str], answer_length: int
    ) -> tuple[TokenIds, list[TokenKind]]:
        """A prompt within `max_length`, and the kinds of its tokens."""
        where = f"row {example_id}"
        template = self._template_of(example_id)
        lines = self._lookup(self._line_ids, history, where)
        candidate_lines = self._lookup(self._line_ids, candidates, where)
        candidate_ids = _joined(candidate_lines)
        num_fixed = len(template.text_ids) + answer_length
        if self.settings.list_candidates:
            num_fixed += len(candidate_ids)
        history_ids = self._cut(lines, num_fixed, where)
        return template.fill(history_ids, candidate_ids)

    def _cut(self, lines: Sequence[TokenIds], num_fixed: int, where: str) -> TokenIds:
        """The newest lines of a history that fit beside `num_fixed` other tokens."""
        max_length = self.settings.max_length
        max_history_tokens = max_length - num_fixed
        first = _first_line_within(lines, max_history_tokens)
        fits_no_line = first == len(lines)
        if lines and fits_no_line:
            needed = num_fixed + len(lines[-1])
            raise DataError(
                f"{where}: prompt and answer must fit into max_length = {max_length} tokens, "
                f"but they need {needed} with one history item. Raise max_length."
            )
        self.cut_items += first
        return _joined(lines[first:])

    def _template_of(self, example_id: str) -> _TokenisedTemplate:
        """The row's template, by its id: a draw at evaluation time would change the scores."""
        templates = self._templates
        # Most models have one template, and a draw for each row takes time.
        if len(templates) == 1:
            return templates[0]
        keys = random_keys.keys(0, "template", [example_id])
        index = random_keys.integers(keys, 0, len(templates))[0]
        return templates[int(index)]


def _check_ends(answers: Mapping[str, TokenIds]) -> None:
    """Refuse answers of which one is the beginning of another, its end included."""
    # In order, whatever begins others stands right before the first of them.
    in_order = sorted(answers, key=lambda item_id: answers[item_id])
    for first, second in zip(in_order, in_order[1:], strict=False):
        length = len(answers[first])
        if length < len(answers[second]) and answers[second][:length] == answers[first]:
            raise DataError(
                f"item {first!r}: its answer must not begin that of item {second!r}, but the "
                "tokenizer has no end-of-sequence token to tell them apart. Set its eos_token."
            )


def _joined(lines: Sequence[TokenIds]) -> TokenIds:
    return [token_id for line in lines for token_id in line]


def _first_line_within(lines: Sequence[TokenIds], max_tokens: int) -> int:
    """The index of the oldest line that fits with all later ones; the newest are taken first."""
    if sum(map(len, lines)) <= max_tokens:
        return 0
    first = len(lines)
    remaining = max_tokens
    for line in reversed(lines):
        if len(line) > remaining:
            break
        remaining -= len(line)
        first -= 1
    return first
