"""Titles as a backbone's tokenizer writes them: how many tokens, and which titles are alike."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dynamicpo.core.arrays import IntArray
from dynamicpo.core.choices import BACKBONES
from dynamicpo.core.errors import ConfigError
from dynamicpo.models.backbones import COMPACT, check_backbone

# Lower ends of the classes of titles by their number of tokens.
TOKEN_CLASSES = (1, 3, 5, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_LARGE_SHARE = 95  # percent; one long title is no trait of the data


class TitleTokens(NamedTuple):
    """Numbers of tokens.

    Attributes:
        large: The 95th percentile of tokens a title.
        most: The most of a title.
        by_class: Titles in each of `TOKEN_CLASSES`.
        num_alike: Titles with the same tokens as another.
        alike: The first groups of them, in the order of the alphabet.
    """

    large: float
    most: int
    by_class: list[int]
    num_alike: int
    alike: list[list[str]]


def check_tokenizer(backbone: str) -> None:
    """Check that a backbone has a tokenizer for titles, before anything is read.

    Raises:
        ConfigError: It has none, or can't be loaded here.
    """
    if backbone == COMPACT:
        others = ", ".join(name for name in BACKBONES if name != COMPACT)
        raise ConfigError(
            f"tokenizer: must be one of titles ({others}, a Hugging Face id or a folder), but "
            f"{COMPACT!r} has a token for each item. Leave it out."
        )
    check_backbone(backbone, quantization="none")


def measure_tokens(
    titles: Sequence[str], backbone: str, revision: str, num_shown: int
) -> TitleTokens:
    """Tokenise all titles by themselves, as plain text.

    Args:
        titles: All titles, none twice.
        backbone: The name of the model whose tokenizer it is.
        revision: Of a Hugging Face model.
        num_shown: The number of groups of titles alike that are named.

    Raises:
        ConfigError: The tokenizer can't be loaded.
        DataError: It can't write a title as plain text.
    """
    # torch and transformers take seconds to import.
    from dynamicpo.models.base_models import load_tokenizer
    from dynamicpo.prompts.plain_text import TitleTokeniser
    from dynamicpo.prompts.template import TITLE

    ordered = sorted(titles)
    tokenizer = load_tokenizer(backbone, revision)
    tokeniser = TitleTokeniser(tokenizer)
    token_ids = tokeniser.tokenise_titles(TITLE, ordered)
    by_tokens = defaultdict(list)
    for title, ids in zip(ordered, token_ids, strict=True):
        by_tokens[tuple(ids)].append(title)
    alike = [group for group in by_tokens.values() if len(group) > 1]
    lengths = np.array([len(ids) for ids in token_ids])
    large = np.percentile(lengths, _LARGE_SHARE)
    return TitleTokens(
        large=float(large),
        most=int(lengths.max()),
        by_class=_class_sizes(lengths),
        num_alike=sum(map(len, alike)),
        alike=alike[:num_shown],
    )


def _class_sizes(lengths: IntArray) -> list[int]:
    index = np.searchsorted(TOKEN_CLASSES, lengths, side="right") - 1
    # A title without a token is among the shortest.
    sizes: list[int] = np.bincount(index.clip(min=0), minlength=len(TOKEN_CLASSES)).tolist()
    return sizes
