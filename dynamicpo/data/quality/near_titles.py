"""Near-duplicate titles: one item under two ids, more likely than two items.

Two titles are near duplicates where they have the same words, whatever their order, case, accents
and articles, or where few letters differ: one of ten. Their numbers must be the same, for
"Rocky II" and "Rocky III" are two films. Candidates share one of their rarest trigrams: strings
that d edits make equal differ in at most 3 d of their trigrams, so that of the 3 d + 1 rarest of
each, in one order for all, one is in both (prefix filtering). Not every pair is compared, and in
time that grows with the number of titles alone, whatever their form.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from dynamicpo.core.arrays import IntArray

_ARTICLES = frozenset(("the", "a", "an"))
_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r".*\d.*|(?=[ivx])x{0,3}(?:ix|iv|v?i{0,3})")
_GRAM = 3
_LETTERS_AN_EDIT = 10
# Of titles that share a trigram each is compared with so many that follow it in the alphabet: what
# is nearly equal stands near, and thousands of titles of one form don't take hours.
_NEIGHBOURS = 20
# Nearer ones come first, and none after these: the next letter of 50,000 titles of one form.
_MOST_PAIRS = 4_000_000
# Titles of more than 50 letters have more, but near duplicates share most of them.
_MOST_GRAMS = 16
_PAIRS_AT_ONCE = 500_000


class NearDuplicates(NamedTuple):
    """Titles that are nearly equal to another.

    Attributes:
        num_titles: Their number.
        pairs: The first pairs of them, in the order of the alphabet.
    """

    num_titles: int
    pairs: list[tuple[str, str]]


class _Key(NamedTuple):
    """A title in plain letters.

    Attributes:
        text: Its words, without articles.
        numbers: The numbers among them.
    """

    text: str
    numbers: tuple[str, ...]

    @property
    def num_edits(self) -> int:
        """The most letters in which a near duplicate differs."""
        return len(self.text) // _LETTERS_AN_EDIT


def near_duplicates(titles: Sequence[str], num_shown: int) -> NearDuplicates:
    """Find the titles that are nearly equal to another one.

    Args:
        titles: All titles, none twice.
        num_shown: The number of pairs that are named.
    """
    ordered = sorted(titles)
    keys = [_key_of(title) for title in ordered]
    pairs = np.concatenate([_same_words(keys), _few_edits(keys)])
    shown = np.unique(pairs, axis=0)[:num_shown].tolist()
    named = [(ordered[first], ordered[second]) for first, second in shown]
    return NearDuplicates(len(np.unique(pairs)), named)


def _key_of(title: str) -> _Key:
    letters = unicodedata.normalize("NFKD", title).casefold()
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    words = [word for word in _WORD.findall(plain) if word not in _ARTICLES]
    numbers = tuple(sorted(word for word in words if _NUMBER.fullmatch(word)))
    # Without words, the signs of a title ("!!!") tell it from others.
    return _Key(" ".join(words) or title, numbers)


def _same_words(keys: Sequence[_Key]) -> IntArray:
    """Pairs of neighbours among titles of the same words. Shape (number of pairs, 2)."""
    by_words = defaultdict(list)
    for index, key in enumerate(keys):
        words = sorted(key.text.split())
        by_words[tuple(words)].append(index)
    pairs: list[tuple[int, int]] = []
    for indices in by_words.values():
        pairs += zip(indices, indices[1:], strict=False)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _few_edits(keys: Sequence[_Key]) -> IntArray:
    """Pairs of titles that differ in few letters. Shape (number of pairs, 2)."""
    lengths = np.array([len(key.text) for key in keys])
    pairs = _candidates(keys)
    firsts, seconds = lengths[pairs].T
    limits = np.minimum(firsts, seconds) // _LETTERS_AN_EDIT
    is_near = np.abs(firsts - seconds) <= limits
    pairs, limits = pairs[is_near], limits[is_near]
    found = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        chunk = slice(start, start + _PAIRS_AT_ONCE)
        distances = _distances(keys, pairs[chunk], int(limits[chunk].max()))
        found.append(pairs[chunk][distances <= limits[chunk]])
    return np.concatenate(found)


def _distances(keys: Sequence[_Key], pairs: IntArray, largest: int) -> IntArray:
    """Edits between the titles of each pair; one more than the largest for all that are more."""
    firsts, seconds = pairs.T.tolist()
    distances: IntArray = process.cpdist(
        [keys[index].text for index in firsts],
        [keys[index].text for index in seconds],
        scorer=Levenshtein.distance,
        score_cutoff=largest,
    )
    return distances


def _candidates(keys: Sequence[_Key]) -> IntArray:
    """Pairs of titles that share a rare trigram and all numbers. Shape (number of pairs, 2)."""
    blocks, members = _rare_grams(keys)
    pairs: list[IntArray] = []
    for distance in range(1, _NEIGHBOURS + 1):
        is_same_block = blocks[:-distance] == blocks[distance:]
        num_pairs = sum(map(len, pairs))
        if num_pairs >= _MOST_PAIRS or not is_same_block.any():
            break
        firsts = members[:-distance][is_same_block]
        seconds = members[distance:][is_same_block]
        # As one number, in which a pair that shares several trigrams is found once.
        pairs.append(firsts * len(keys) + seconds)
    if not pairs:
        return np.empty((0, 2), dtype=np.int64)
    codes = np.unique(np.concatenate(pairs))
    return np.column_stack(np.divmod(codes, len(keys)))


def _rare_grams(keys: Sequence[_Key]) -> tuple[IntArray, IntArray]:
    """Number of a block, and the index of a title in it; by block, then by title."""
    grams = [_grams(key.text) if key.num_edits else [] for key in keys]
    frequency = Counter(gram for of_title in grams for gram in of_title)
    numbers: dict[tuple[str, tuple[str, ...]], int] = {}
    blocks = []
    members = []
    for index, key in enumerate(keys):
        num_grams = min(_GRAM * key.num_edits + 1, _MOST_GRAMS)
        for gram in _rarest(grams[index], frequency, num_grams):
            block = numbers.setdefault((gram, key.numbers), len(numbers))
            blocks.append(block)
            members.append(index)
    block_array = np.array(blocks, dtype=np.int64)
    member_array = np.array(members, dtype=np.int64)
    order = np.lexsort((member_array, block_array))
    return block_array[order], member_array[order]


def _grams(text: str) -> list[str]:
    """The trigrams of a text, the second of two equal ones under another name."""
    padded = f"\x02\x02{text}\x03\x03"
    seen: Counter[str] = Counter()
    grams = []
    for start in range(len(padded) - _GRAM + 1):
        gram = padded[start : start + _GRAM]
        grams.append(f"{gram}{seen[gram] or ''}")
        seen[gram] += 1
    return grams


def _rarest(grams: Sequence[str], frequency: Mapping[str, int], number: int) -> list[str]:
    return sorted(grams, key=lambda gram: (frequency[gram], gram))[:number]
