import pytest
from hypothesis import given
from hypothesis import strategies as st

from truepair.relations.text import caption_key, normalise_caption


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("  A dog,  running. ", "a dog running"),
        ("red,blue", "red blue"),
        ("black-and-white cat", "black and white cat"),
        ("A man's hat", "a mans hat"),
        ("the U.S. flag", "the us flag"),
        ("C\u00f4te d\u2019Ivoire", "c\u00f4te divoire"),
        ("Co\u0302te d'Ivoire", "c\u00f4te divoire"),
        ("keycap: #", "keycap #"),
        ("50% off & more", "50% off & more"),
        ("?!", "?!"),
        ("(two) \u201cquoted\u201d \u00abwords\u00bb\u2026", "two quoted words"),
        ("C.\u0327", "\u00e7"),
        ("\t \n", ""),
    ],
)
def test_case_punctuation_and_spaces_do_not_count(text, normalised):
    assert normalise_caption(text) == normalised


def test_keycaps_stay_apart():
    assert len({caption_key(f"keycap: {sign}") for sign in "#*123"}) == 5


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalise_caption(text)

    assert normalise_caption(once) == once
    assert bool(once) == bool(text.strip())


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_keys_are_equal_exactly_for_equal_texts(left, right):
    assert (caption_key(left) == caption_key(right)) == (normalise_caption(left) == normalise_caption(right))
    assert 0 <= caption_key(left) < 2**63


def test_keys_are_the_same_in_every_process_and_release():
    assert caption_key("A dog.") == caption_key("a dog") == 9151722581430185315
