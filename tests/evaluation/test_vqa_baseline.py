import pytest

from truepair.errors import DataError
from truepair.evaluation.vqa import TextBaseline


def test_same_text_then_same_beginning_then_majority():
    baseline = TextBaseline(
        ["what is this", "what is this", "what is this", "what is that", "is it red", "is it", "is it"],
        ["dog", "cat", "cat", "cow", "yes", "no", "no"],
    )
    asked = ["what is this", "what is it", "what now", "is it red", "is it blue", "why"]
    assert baseline.answer(asked) == ["cat", "cat", "cat", "yes", "no", "cat"]
    assert baseline.majority == "cat"  # as often as "no", and earlier in the alphabet


def test_nothing_to_learn_from():
    with pytest.raises(DataError, match="at least one training answer"):
        TextBaseline([], [])
