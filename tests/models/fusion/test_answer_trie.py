import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.errors import DataError
from truepair.models.fusion.answers import AnswerTrie

END = 9
ANSWERS = [[5, END], [5, 6, END], [7, END], [5, 6, 5, END], [5, END]]


def test_each_distinct_beginning_is_one_node() -> None:
    trie = AnswerTrie(ANSWERS, start=2)
    beginnings = {tuple(answer[:length]) for answer in ANSWERS for length in range(1, len(answer) + 1)}
    assert len(trie.tokens) == 1 + len(beginnings)
    assert int(trie.inner.sum()) == 1 + sum(beginning[-1] != END for beginning in beginnings)
    assert len(trie) == 5 and trie.paths[0].tolist() == trie.paths[4].tolist()


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=4), min_size=1, max_size=8))
def test_paths_spell_the_answers_and_nodes_see_their_way_back(texts: list[list[int]]) -> None:
    answers = [[*text, END] for text in texts]
    trie = AnswerTrie(answers, start=2)
    for answer, path in zip(answers, trie.paths.tolist(), strict=True):
        nodes = [node for node in path if node]
        assert trie.tokens[nodes].tolist() == answer
        assert trie.depths[nodes].tolist() == list(range(1, len(answer) + 1))
        assert trie.parents[nodes].tolist() == [0, *nodes[:-1]]
        for place, node in enumerate(nodes):
            assert trie.visible[node].nonzero()[:, 0].tolist() == sorted([0, *nodes[: place + 1]])
    assert trie.visible[0].sum() == 1


def test_answers_without_tokens_are_refused() -> None:
    with pytest.raises(DataError, match="no answers"):
        AnswerTrie([], start=2)
    with pytest.raises(DataError, match="answer 1 of the answer list has no token"):
        AnswerTrie([[5, END], [END]], start=2)


def test_moving_to_where_it_is_changes_nothing() -> None:
    trie = AnswerTrie(ANSWERS, start=2)
    assert trie.to(torch.device("cpu")) is trie
