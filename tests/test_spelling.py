"""The name that was meant."""

import pytest

from truepair.errors import nearest


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("pretrian", " (did you mean 'pretrain'?)"),
        ("mine", " (did you mean 'mine'?)"),
        ("xyz", ""),  # nothing is like it, so nothing is proposed
        ("", ""),
    ],
)
def test_the_nearest_word(word: str, hint: str) -> None:
    assert nearest(word, iter(["pretrain", "mine", "judge"])) == hint


def test_there_may_be_no_words() -> None:
    assert nearest("mine", []) == ""
