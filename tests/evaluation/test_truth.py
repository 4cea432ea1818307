import pytest
import torch

from truepair.errors import DataError
from truepair.evaluation import Truth


def pairs(*items):
    return torch.tensor(items, dtype=torch.int64).reshape(-1, 2)


def test_own_pairs_are_true_and_repeats_count_once():
    truth = Truth(2, 3, own=pairs((1, 2), (0, 0), (1, 2)), true=pairs((0, 1), (0, 0)))
    assert truth.own.tolist() == [[0, 0], [1, 2]]
    assert truth.true.tolist() == [[0, 0], [0, 1], [1, 2]]
    assert truth.ignored.tolist() == []


def test_queries_of_both_directions():
    truth = Truth(3, 2, own=pairs((0, 1), (2, 1)), ignored=pairs((2, 0)))
    i2t, t2i = truth.queries("i2t"), truth.queries("t2i")
    assert (i2t.rows.tolist(), i2t.left_out) == ([0, 2], 1)
    assert i2t.ignored.sizes.tolist() == [0, 1]
    assert (t2i.rows.tolist(), t2i.left_out) == ([1], 1)
    assert t2i.answers.members.tolist() == [0, 2]


def test_every_stated_caption_asks_and_answers_naively():
    truth = Truth(3, 2, own=pairs((2, 1), (0, 1), (0, 1), (0, 0)), true=pairs((1, 1)))
    assert truth.own.tolist() == [[0, 0], [0, 1], [2, 1]]
    t2i, i2t = truth.naive_queries("t2i"), truth.naive_queries("i2t")
    assert t2i.rows.tolist() == [0, 1, 2, 3]
    assert t2i.answers.members.tolist() == [2, 0, 0, 0]
    assert t2i.left_out == 0
    assert i2t.rows.tolist() == [0, 2]
    assert i2t.answers.select(torch.tensor([0])).members.tolist() == [1, 2, 3]
    assert i2t.left_out == 1
    assert i2t.twins is not None
    assert i2t.twins.tolist() == [
        1,
        0,
        0,
        2,
    ]  # caption 0 has twins in captions 1 and 2
    assert truth.without_ignored().own_captions.tolist() == truth.own_captions.tolist()


@pytest.mark.parametrize("wrong", [(2, 0), (0, 3), (-1, 0)])
def test_out_of_range(wrong):
    with pytest.raises(DataError, match="out of range"):
        Truth(2, 3, own=pairs(wrong))


def test_true_and_ignored_exclude_each_other():
    with pytest.raises(DataError, match=r"image 1, caption 2.*both true and ignored"):
        Truth(2, 3, own=pairs((1, 2)), ignored=pairs((1, 2)))
