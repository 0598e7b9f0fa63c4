"""The tree of a catalogue's answers, by hand."""

import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.scoring.token_trie import make_trie


def test_the_tree_holds_each_beginning_once() -> None:
    tree = make_trie([[1, 2, 3], [1, 2, 4], [1, 5], [2], [1]])
    assert [level.tokens.tolist() for level in tree.levels] == [[1, 2], [2, 5], [3, 4]]
    assert [level.parents.tolist() for level in tree.levels] == [[0, 0], [0, 0], [0, 0]]
    assert [level.are_inner.tolist() for level in tree.levels] == [
        [True, False],
        [True, False],
        [False, False],
    ]
    assert [level.answers.tolist() for level in tree.levels] == [[3, 4], [2], [0, 1]]
    assert [level.ends.tolist() for level in tree.levels] == [[1, 0], [1], [0, 1]]
    assert tree.num_evaluated == 2  # the last tokens of a path predict nothing


@pytest.mark.parametrize("answers", [[], [[1], []]])
def test_answers_that_can_not_be_used(answers: list[list[int]]) -> None:
    with pytest.raises(DataError, match="answers: need at least one"):
        make_trie(answers)
