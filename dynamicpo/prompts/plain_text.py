"""Titles to token ids as plain text: what reads like a special token of the model is none.

A title "The </s> Tag" would otherwise end the answer in its middle. Special tokens that a template
has around a title stay what they are.
"""

import re
from typing import TYPE_CHECKING, TypeAlias

from dynamicpo.core.errors import DataError
from dynamicpo.prompts.template import TITLE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TokenIds: TypeAlias = list[int]


class TitleTokeniser:
    """Tokenises titles within a form of the template.

    Args:
        tokenizer: A tokenizer of transformers.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        """Look up the special tokens."""
        self._tokenizer = tokenizer
        self._special_ids = {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special and token.content
        }
        # The longest first, as one may be the beginning of another.
        texts = sorted(self._special_ids, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, texts))})") if texts else None

    def tokenise(self, texts: list[str]) -> list[TokenIds]:
        """Token ids of texts of the template, whose special tokens are special."""
        # Without special tokens at the ends, which belong to a sequence and not to each segment. An
        # empty list is an error to the tokenizer.
        if not texts:
            return []
        token_ids: list[TokenIds] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return token_ids

    def tokenise_titles(self, form: str, titles: list[str]) -> list[TokenIds]:
        """Token ids of a form with each title in it.

        Args:
            form: Text with {title} in it.
            titles: Plain text, whatever it reads like.

        Raises:
            DataError: The tokenizer can't write a title as plain text.
        """
        # Title and form together: a tokenizer may merge the end of a title with what follows.
        texts = [form.replace(TITLE, title) for title in titles]
        result = self.tokenise(texts)
        if self._special is None:
            return result
        of_form = self._special.findall(form)
        for index, title in enumerate(titles):
            # The title "/s" in the form "<{title}>" is no special token either.
            is_special = (
                self._special.search(title) or self._special.findall(texts[index]) != of_form
            )
            if is_special:
                result[index] = self._plain_title(form, title)
        return result

    def _plain_title(self, form: str, title: str) -> TokenIds:
        assert self._special is not None
        token_ids: TokenIds = []
        for part in self._special.split(form):
            if part in self._special_ids:
                token_ids.append(self._special_ids[part])
            elif part:
                token_ids += self._plain(part.replace(TITLE, title), title)
        return token_ids

    def _plain(self, text: str, title: str) -> TokenIds:
        """Token ids of a text none of which is special."""
        assert self._special is not None
        token_ids = self._split(text)
        if self._are_plain(token_ids):
            return token_ids
        # Some models have special tokens among their ordinary ones: no part may be a whole one.
        parts = [part for word in self._special.split(text) for part in (word[:1], word[1:])]
        token_ids = [token_id for part in parts if part for token_id in self._split(part)]
        if self._are_plain(token_ids):
            return token_ids
        raise DataError(
            f"item title {title!r}: must not be read as a special token of the model, but its "
            "tokenizer has no other tokens for it. Change the title."
        )

    def _split(self, text: str) -> TokenIds:
        token_ids: TokenIds = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True
        )["input_ids"]
        return token_ids

    def _are_plain(self, token_ids: TokenIds) -> bool:
        unknown = self._tokenizer.unk_token_id
        special = set(self._special_ids.values()) - {unknown}
        return special.isdisjoint(token_ids)
