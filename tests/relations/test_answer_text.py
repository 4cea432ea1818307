import pytest
from hypothesis import given
from hypothesis import strategies as st

from truepair.relations.text import normalise_answer


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Yes", "yes"),
        ("A  dog\n", "dog"),
        ("the man in the hat", "man in hat"),
        ("two", "2"),
        ("Ten apples", "10 apples"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldntve", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("girl's", "girl's"),
        ("well", "well"),
        ("2:50 pm", "2:50 pm"),
        ("2.5", "2.5"),
        ("st. louis.", "st louis"),
        ("p.m.", "pm"),
        ("100,978", "100978"),
        ("red/white", "red white"),
        ("red, white", "red white"),
        ("t-shirt", "t shirt"),
        ("t-shirt - blue", "tshirt blue"),  # as the evaluation server has it
        ("black & white", "black & white"),
        ("what?!", "what"),
        ("the", ""),
    ],
)
def test_the_rules(raw: str, expected: str) -> None:
    assert normalise_answer(raw) == expected


@given(st.text(alphabet="abthe12.,-' ?", max_size=12))
def test_words_stand_apart_by_one_space_without_articles(text: str) -> None:
    words = normalise_answer(text).split(" ")
    assert all(word not in ("a", "an", "the") for word in words)
    assert words == [""] or all(words)
