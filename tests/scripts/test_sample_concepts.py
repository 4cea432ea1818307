import pytest
from emoji_sample.concepts import Concept, distinct, family_of, read_concepts, slug, words
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Grinning Face", "grinning-face"),
        ("piñata", "pinata"),
        ("rescue worker\u2019s helmet", "rescue-workers-helmet"),
        ("keycap: *", "keycap-asterisk"),
        ("keycap: #", "keycap-hash"),
        ("bed & bath", "bed-and-bath"),
        ("祝", ""),
    ],
)
def test_slug(text, expected):
    assert slug(text) == expected


@given(st.text(max_size=30))
@settings(max_examples=50)
def test_a_slug_is_its_own_slug(text):
    assert slug(slug(text)) == slug(text)


def test_words():
    assert words("man_in-business__suit") == "man in business suit"


def test_distinct_keeps_the_first_of_like_texts_and_drops_single_letters():
    assert distinct(["Thumbs up", "y", "thumbs-up", "yes", "+1", "YES"]) == ("Thumbs up", "yes")


@pytest.mark.parametrize(
    ("group", "family"),
    [
        ("1F3C3-200D-2640-FE0F", "1F3C3"),  # woman running -> person running
        ("1F468-200D-1F680", "1F9D1-200D-1F680"),  # man astronaut -> astronaut
        ("1F468", "1F468"),  # man: not a person who does something
        ("0023-FE0F-20E3", "0023-20E3"),
    ],
)
def test_family_of(group, family):
    assert family_of(group) == family


def make_concept(names=("cat", "kitty"), keywords=("animal", "pet")):
    return Concept("1F408", "1F408", "animals", "mammal", tuple(names), tuple(keywords), frozenset({"cat"}))


def test_captions_are_four_names_and_eight_keywords():
    names = ["aa", "bb", "cc", "dd", "ee"]
    concept = make_concept(names, [f"key{letter}" for letter in "abcdefghij"])
    keywords = "keya, keyb, keyc, keyd, keye, keyf, keyg, keyh"
    assert concept.captions == ("aa", "bb", "cc", "dd", keywords)
    assert concept.true_captions == (*names, keywords)


def test_a_single_keyword_is_no_caption():
    assert make_concept(["gorilla"], ["animal"]).captions == ("gorilla",)


def test_a_keyword_list_that_repeats_a_name_is_dropped():
    assert make_concept(["black cat"], ["black", "cat"]).captions == ("black cat",)


FILES = {
    "en/messages.json": {
        "groups": [{"order": 3, "key": "animals-nature"}, {"order": 2, "key": "component"}],
        "subgroups": [{"order": 36, "key": "animal-mammal"}],
    },
    "en/data.json": [
        {"hexcode": "1F1E6", "label": "regional indicator A"},
        {"hexcode": "1F3FB", "label": "light skin tone", "group": 2, "subgroup": 36},
        {"hexcode": "1F408", "label": "Cat", "group": 3, "subgroup": 36, "tags": ["animal", "pet"]},
    ],
    "en-gb/data.json": [{"hexcode": "1F408", "label": "Moggy"}],
    "en/shortcodes/cldr.json": {"1F408": "cat"},
    "en/shortcodes/github.json": {"1F408": ["cat2", "house_cat"]},
}


class FakeArchive:
    def read_json(self, member):
        return FILES.get(member, {})


def test_read_concepts():
    assert read_concepts(FakeArchive()) == {
        "1F408": Concept(
            group="1F408",
            family="1F408",
            category="animals-nature",
            subcategory="animal-mammal",
            names=("Cat", "cat2", "house cat", "moggy"),
            keywords=("animal", "pet"),
            icon_slugs=frozenset({"cat", "moggy"}),
        )
    }
