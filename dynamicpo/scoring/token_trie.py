"""Answers as a tree of tokens, each shared beginning once, level by level.

Scoring works through a level in one pass (see `catalogue_scoring`), so the tree is kept as an array
for each level, not as a node for each token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamicpo.core.arrays import BoolArray, IntArray
from dynamicpo.core.errors import DataError


@dataclass(frozen=True)
class TrieLevel:
    """The tokens at one depth, each once for its parent.

    Attributes:
        tokens: Their ids. Shape (n,).
        parents: Index of each one's parent in the level above; 0 at the top. Shape (n,).
        are_inner: Which have children. Shape (n,), bool.
        answers: The answers that end here.
        ends: Index of the token that each of them ends with.
    """

    tokens: IntArray
    parents: IntArray
    are_inner: BoolArray
    answers: IntArray
    ends: IntArray


@dataclass(frozen=True)
class TokenTrie:
    """Answers as a tree of tokens; one may be the beginning of another.

    Attributes:
        answers: The answers, tokens each.
        levels: From the first tokens on.
    """

    answers: Sequence[Sequence[int]]
    levels: list[TrieLevel]

    @property
    def num_evaluated(self) -> int:
        """Tokens that go through the model when nothing is left out."""
        # From the last token of a path nothing is predicted.
        return sum(int(level.are_inner.sum()) for level in self.levels)


def make_trie(answers: Sequence[Sequence[int]]) -> TokenTrie:
    """Build the tree of some answers.

    Raises:
        DataError: No answers, or an empty one.
    """
    lengths = np.array([len(answer) for answer in answers])
    if not len(lengths) or not lengths.all():
        raise DataError(
            "answers: need at least one, each of at least one token, got none. "
            "Leave empty ones out."
        )
    levels = []
    # Of each answer, the index of its latest token in the latest level; at first of no token.
    nodes = np.zeros(len(answers), dtype=np.int64)
    for depth in range(int(lengths.max())):
        level, nodes = _make_level(answers, lengths, nodes, depth)
        levels.append(level)
    return TokenTrie(answers, levels)


def _make_level(
    answers: Sequence[Sequence[int]], lengths: IntArray, parents: IntArray, depth: int
) -> tuple[TrieLevel, IntArray]:
    """Build the level at a depth.

    Args:
        answers: The answers.
        lengths: Of each answer. Shape (A,).
        parents: Of each answer, the index of its latest token in the level above. Shape (A,).
        depth: Tokens before the level's.

    Returns:
        The level, and of each answer the index of its latest token in it.
    """
    has_token = lengths > depth
    goes_on = lengths > depth + 1
    ends_here = lengths == depth + 1
    longer = np.flatnonzero(has_token)
    tokens = np.array([answers[answer][depth] for answer in longer.tolist()])
    # Equal tokens after the same parent are one node.
    pairs = np.stack([parents[longer], tokens], axis=1)
    unique_pairs, node_index = np.unique(pairs, axis=0, return_inverse=True)
    nodes = parents.copy()
    nodes[longer] = node_index
    are_inner = np.zeros(len(unique_pairs), dtype=bool)
    are_inner[nodes[goes_on]] = True
    level = TrieLevel(
        tokens=unique_pairs[:, 1],
        parents=unique_pairs[:, 0],
        are_inner=are_inner,
        answers=np.flatnonzero(ends_here),
        ends=nodes[ends_here],
    )
    return level, nodes
