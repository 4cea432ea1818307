import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truepair.relations import text as text_of_captions
from truepair.relations.text import caption_key, caption_keys, identity_of_caption, normalise_caption


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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A dog, running.", "a dog running"),
        ("a room with 5 chairs.", "A room with 5 chairs"),
        ("the year 1999.", "the year 1999"),
        ("in 1999, a dog", "in 1999 a dog"),
        ("\u22125 \u00b0C outside", "-5 \u00b0C outside"),
        ("pages 5\u201310", "pages 5 - 10"),
        ("(5) dogs!", "5 dogs"),
        ('the "size 5" shirt', "the size 5 shirt"),
        ("the '5' key", "the 5 key"),
        ("6\u2032 tall", "6' tall"),
        ("a 5-star hotel", "a 5 star hotel"),
        ("it is 5: run", "it is 5 run"),
        ("black-and-white", "black and white"),
        ("C\u00f4te d'Ivoire", "Co\u0302te d\u2019Ivoire"),
    ],
)
def test_captions_that_are_the_same(one, other):
    assert caption_key(one) == caption_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.5 litres", "15 litres"),
        (".5 litres", "5 litres"),
        ("0.5 litres", "05 litres"),
        ("-5 \u00b0C", "5 \u00b0C"),
        ("-0.5", "0.5"),
        ("-.5", "-5"),
        ("(-5) degrees", "(5) degrees"),
        ("+5", "5"),
        ("5-10 dogs", "5 10 dogs"),
        ("1/2 cup", "1 2 cup"),
        ("1/2 cup", "12 cup"),
        ("3:2", "3 2"),
        ("a 3:2 win", "a 3-2 win"),
        ("10:30", "1030"),
        ("1,5 km", "15 km"),
        ("1,000", "1 000"),
        ("5' tall", '5" tall'),
        ("5' tall", "5 tall"),
        ("5'10\" tall", "510 tall"),
        ("50%", "50"),
        ("50%", "50\u2030"),
        ("5 km", "5 m"),
        ("5 m", "5 m\u00b2"),
        ("5 m/s", "5 ms"),
        ("$5", "\u20ac5"),
        ("$5", "5"),
        ("C++ code", "C code"),
        ("C# code", "C code"),
        ("#1", "1"),
        ("<5", ">5"),
        ("blood type A-", "blood type A+"),
        ("blood type AB-", "blood type AB"),
        ("v1.2.3", "v1.23"),
        ("192.168.0.1", "192.16.80.1"),
        ("\u00b15", "5"),
        ("4x4", "4 4"),
        ("20\u00b0", "20"),
    ],
)
def test_captions_that_differ_in_meaning(one, other):
    assert caption_key(one) != caption_key(other)


@given(st.text("a1. ,-'\"/:\u2212\u2019\u0301A+(", max_size=12) | st.text())
def test_what_tells_a_caption_apart_is_told_once(text):
    once = identity_of_caption(text)

    assert identity_of_caption(once) == once
    assert bool(once) == bool(text.strip())


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_keys_are_equal_exactly_for_equal_texts(left, right):
    assert (caption_key(left) == caption_key(right)) == (identity_of_caption(left) == identity_of_caption(right))
    assert 0 <= caption_key(left) < 2**63


def test_keys_are_the_same_in_every_process_and_release():
    assert caption_key("A dog.") == caption_key("a dog") == 9151722581430185315


def test_plain_captions_take_a_short_way_to_the_same_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    letters = "aA B5 1 -.,/:'\"()_*#&@%?!;3x\tAB-~|+=<>$^`\n"
    captions = ["".join(draw.choices(letters, k=draw.randint(1, 9))) for _ in range(4000)]
    short = [
        [text_of_captions.identity_of_caption.__wrapped__(caption, cased) for caption in captions]
        for cased in (False, True)
    ]
    monkeypatch.setattr(text_of_captions, "_MAY_MEAN_MORE", re.compile(""))
    long = [
        [text_of_captions.identity_of_caption.__wrapped__(caption, cased) for caption in captions]
        for cased in (False, True)
    ]
    assert short == long


LETTERS = "aA b5 1-.,/:'\"()_#!\u2212\u00e4\u0301\u03a3\u03c3\u4e2d\u0665\u2013\x1c\x85\u2028\ud800\t\n"


@given(st.lists(st.text(LETTERS, max_size=8) | st.text(max_size=8), max_size=12), st.booleans())
def test_keys_of_many_captions_are_those_of_each(texts: list[str], cased: bool) -> None:
    assert caption_keys(texts, cased).tolist() == [caption_key(text, cased) for text in texts]


def test_keys_of_more_captions_than_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truepair.relations.text._AT_ONCE", 3)
    draw = random.Random(1)
    texts = ["".join(draw.choices(LETTERS, k=draw.randint(0, 9))) for _ in range(2000)]
    plain = [text for text in texts if "\n" not in text]
    for captions in (texts, plain, ["A dog.", "a  dog", "\ta dog!", "?!", "", "1.5", "15"]):
        assert caption_keys(captions).tolist() == [caption_key(text) for text in captions]
