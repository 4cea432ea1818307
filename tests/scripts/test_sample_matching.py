import pytest
from emoji_sample.concepts import Concept
from emoji_sample.matching import UNHYPHENATED_ICONS, IconSet, match_icons


def make_set(vendor, icons, characters=None, aliases=None):
    data = {"icons": {name: {"body": ""} for name in icons}, "aliases": aliases or {}}
    return IconSet(vendor, data, characters or {}, match_names=characters is None)


def make_concepts(**slugs):
    return {
        group.strip("_"): Concept(group.strip("_"), "", "", "", (), (), frozenset(names))
        for group, names in slugs.items()
    }


def match(concepts, *sets):
    return match_icons(concepts, {icons.vendor: icons for icons in sets})


def test_stated_code_points_win_over_names():
    noto = make_set("noto", ["cat", "feline"], {"1F408": "feline"})
    assert match(make_concepts(_1F408={"cat"}), noto) == {"1F408": {"noto": "feline"}}


def test_a_set_that_states_code_points_is_not_searched_by_name():
    assert match(make_concepts(_1F408={"cat"}), make_set("noto", ["cat"], {"1F436": "dog"})) == {}


def test_the_presentation_sign_may_be_missing():
    concept = Concept("2639-FE0F", "", "", "", (), (), frozenset())
    assert match({"2639-FE0F": concept}, make_set("noto", ["frown"], {"2639": "frown"})) == {
        "2639-FE0F": {"noto": "frown"}
    }


def test_names_that_other_sets_state_help_to_find_an_icon():
    noto = make_set("noto", ["pistol"], {"1F52B": "pistol"}, {"gun": {"parent": "pistol"}})
    old = make_set("noto-v1", ["gun"])
    assert match(make_concepts(_1F52B={"water-pistol"}), noto, old)["1F52B"] == {"noto": "pistol", "noto-v1": "gun"}


def test_turned_aliases_are_other_drawings():
    noto = make_set("noto", ["left"], {"2B05": "left"}, {"right": {"parent": "left", "hFlip": True}})
    old = make_set("noto-v1", ["right"])
    assert match(make_concepts(_2B05={"left"}), noto, old) == {"2B05": {"noto": "left"}}


def test_aliases_lead_to_their_icon():
    old = make_set("noto-v1", ["pistol"], aliases={"gun": {"parent": "pistol"}})
    assert match(make_concepts(_1F52B={"gun"}), old) == {"1F52B": {"noto-v1": "pistol"}}


def test_hidden_icons_are_not_found_by_name():
    old = make_set("noto-v1", ["cat"])
    old.data["icons"]["cat"]["hidden"] = True
    assert match(make_concepts(_1F408={"cat"}), old) == {}


def test_an_icon_that_two_concepts_claim_goes_to_neither():
    old = make_set("noto-v1", ["star", "sun"])
    assert match(make_concepts(A1={"star"}, B2={"star"}, C3={"sun"}), old) == {"C3": {"noto-v1": "sun"}}


def test_fxemoji_runs_words_together():
    assert match(make_concepts(A1={"red-heart"}), make_set("fxemoji", ["redheart"])) == {"A1": {"fxemoji": "redheart"}}


def test_no_fxemoji_icon_is_stated_twice():
    assert len(set(UNHYPHENATED_ICONS.values())) == len(UNHYPHENATED_ICONS)


@pytest.mark.parametrize("name", ["noto", "fxemoji"])
def test_a_stated_icon_that_does_not_exist_is_no_match(name):
    assert match(make_concepts(A1={"cat"}), make_set(name, ["cat"], {"A1": "gone"})) == {}
