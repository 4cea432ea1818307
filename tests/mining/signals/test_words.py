import math

import numpy as np
import pytest

from tests.data.test_table import table_of
from truepair.mining.gallery import Gallery
from truepair.mining.signals.words import (
    KIND_TERMS,
    KINDS,
    SharedWords,
    WordStatistics,
    is_content,
    kind_evidence,
    kinds_named,
    named_groups,
    stem,
    words,
)

OWN = ["A brown dog runs on grass.", "The dog jumps", "A tan puppy in a field"]


def evidence(caption: str, own: list[str]) -> dict[str, float]:
    groups = named_groups(own)
    share, stated = groups.mean(dim=0, keepdim=True), kinds_named(groups).mean(dim=0, keepdim=True)
    found = kind_evidence(named_groups([caption]), share, stated)
    return dict(zip(KIND_TERMS, found[0].tolist(), strict=True))


def test_the_groups_that_captions_name_are_those_that_a_slow_search_finds() -> None:
    groups = [group for kind in KINDS.values() for group in kind]
    captions = [*OWN, "", "A boy and two girls", "dogs, dogs, DOGS", *groups]
    expected = [[float(bool(set(group.split()) & set(words(text)))) for group in groups] for text in captions]
    assert named_groups(captions).tolist() == expected
    assert named_groups([]).shape == (0, len(groups))


def test_a_rare_word_tells_more() -> None:
    statistics = WordStatistics.of(["dogs run", "a dog jumping, a dog", "a cat"])
    assert statistics.rarity("jumps") == pytest.approx(math.log(4 / 2))
    assert statistics.rarity("dog") == pytest.approx(math.log(4 / 3))
    assert statistics.rarity("zebra") == pytest.approx(math.log(4))


def test_a_caption_of_the_image_itself_contradicts_nothing() -> None:
    for caption in OWN:
        found = evidence(caption, OWN)
        assert all(found[term] == 0 for term in KIND_TERMS if term.endswith("contradicted"))


def test_another_colour_contradicts_only_where_a_colour_is_stated() -> None:
    found = evidence("a black dog", OWN)
    assert found["colour contradicted"] == pytest.approx(2 / 3)  # two of three captions state another colour
    assert found["colour added"] == 1.0
    assert found["colour omitted"] == pytest.approx(2 / 3)
    assert found["creature contradicted"] == 0
    assert evidence("a black dog", ["the dog jumps"])["colour contradicted"] == 0
    assert evidence("a dog in the snow", OWN)["place contradicted"] == pytest.approx(2 / 3)


def test_no_caption_says_everything_and_one_that_says_nothing_adds_nothing() -> None:
    found = evidence("it is", OWN)
    assert all(found[term] == 0 for term in KIND_TERMS if not term.endswith("omitted"))
    assert found["creature omitted"] == 1.0
    assert len(named_groups(OWN)) == 3
    assert evidence("it is", ["and so"]) == dict.fromkeys(KIND_TERMS, 0.0)


def test_words_stems_and_content() -> None:
    assert words("Two dogs, running -- 3 o'clock.") == ["two", "dogs", "running", "o", "clock"]
    assert {stem("jumps"), stem("jumping"), stem("jumped"), stem("jump")} == {"jump"}
    assert stem("bus") == "bus"  # too short to cut
    assert is_content("dog") and not is_content("the") and not is_content(".")


def test_shared_words_are_counted_by_their_rarity() -> None:
    gallery = Gallery.of_table(
        table_of(
            [["a black dog runs", "the dogs run"], ["a black cat sits"], ["a cat"], ["the"], ["some others like this"]]
        )
    )
    counts = {"dog": 2, "black": 2, "run": 2, "cat": 2, "sit": 1}
    rarity = {word: math.log(7 / (count + 1)) for word, count in counts.items()}
    found = SharedWords(gallery)(np.array([0, 1, 3, 0]), np.array([2, 1, 2, 4])).tolist()
    both = {"black": 0.5, "dog": 1.0, "run": 1.0}
    of_dogs = sum(share * rarity[word] for word, share in both.items())
    of_cat = sum(rarity[word] for word in ("black", "cat", "sit"))
    shared = rarity["black"]
    assert found[0] == pytest.approx([shared / of_cat, 0.5 * shared / of_dogs, of_cat - shared, of_dogs - 0.5 * shared])
    dogs = rarity["dog"] + rarity["run"]
    assert found[1] == pytest.approx([0.0, 0.0, dogs, of_cat])
    assert found[2] == pytest.approx([0.0, math.nan, of_cat, 0.0], nan_ok=True)
    assert found[3] == pytest.approx([math.nan, 0.0, 0.0, of_dogs], nan_ok=True)
