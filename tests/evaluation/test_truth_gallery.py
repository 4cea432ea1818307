import pytest

from truepair.errors import DataError
from truepair.evaluation import Truth


def test_equal_text_is_one_candidate_true_of_all_its_images():
    truth = Truth.from_names([["A red car!"], ["dog"], ["a  red car"]])
    assert truth.texts == ["A red car!", "dog"]
    assert truth.own.tolist() == [[0, 0], [1, 1], [2, 0]]
    assert truth.true.tolist() == truth.own.tolist()


def test_names_are_true_but_not_own():
    truth = Truth.from_names([["dog"], ["hound"]], names=[["dog", "hound"], ["dog", "puppy"]])
    assert truth.texts == ["dog", "hound", "puppy"]
    assert truth.own.tolist() == [[0, 0], [1, 1]]
    assert truth.true.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]


def test_names_may_be_unknown_for_some_images():
    truth = Truth.from_names([["dog"], ["hound"]], names=[None, ["dog"]])
    assert truth.true.tolist() == [[0, 0], [1, 0], [1, 1]]


def test_a_group_shares_its_captions():
    truth = Truth.from_names([["dog"], ["hound"], ["cat"], ["kitten"]], groups=["d", "d", None, None])
    assert truth.true.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 2], [3, 3]]


def test_a_family_is_ignored_unless_true():
    truth = Truth.from_names(
        [["man running"], ["woman running"], ["tree"]],
        names=[["runner"], ["runner"], []],
        families=["running", "running", None],
    )
    assert truth.texts == ["man running", "woman running", "tree", "runner"]
    assert truth.ignored.tolist() == [[0, 1], [1, 0]]


def test_near_captions_are_ignored_unless_true():
    truth = Truth.from_names([["dog"], ["hound"]], names=[["dog", "puppy"], None], near=[["hound", "Puppy"], None])
    assert truth.texts == ["dog", "hound", "puppy"]
    assert truth.true.tolist() == [[0, 0], [0, 2], [1, 1]]
    assert truth.ignored.tolist() == [[0, 1]]


def test_lengths_must_agree():
    with pytest.raises(DataError, match="names has 1 entries for 2 images"):
        Truth.from_names([["a"], ["b"]], names=[["a"]])


def test_blank_captions_are_refused():
    with pytest.raises(DataError, match="blank"):
        Truth.from_names([["a"], [" "]])
