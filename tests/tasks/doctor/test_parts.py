"""The parts of the doctor, each against a slow reference or against known cases."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truepair.tasks.doctor import same
from truepair.tasks.doctor.batches import BatchDraws
from truepair.tasks.doctor.same import Groups, same_labels
from truepair.tasks.doctor.texts import has_control, is_file_name, is_generic, is_mojibake, mended, script_of


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 3), min_size=1, max_size=3)), min_size=2, max_size=5),
    st.integers(2, 5),
    st.sampled_from(["draw", "first", "pairs"]),
)
def test_expected_false_negatives_are_those_of_all_draws(
    table: list[tuple[int, list[int]]], batch: int, captions: str
) -> None:
    """Averaged over every set of rows and every choice of captions."""
    if captions == "pairs":
        table = [(picture, [text]) for picture, texts in table for text in texts]
    if captions == "first":
        table = [(picture, texts[:1]) for picture, texts in table]
    batch = min(batch, len(table))
    counts, chances = [], []
    for chosen in itertools.combinations(table, batch):
        options = list(itertools.product(*([(picture, text) for text in texts] for picture, texts in chosen)))
        for drawn in options:
            counts.append(sum(a[0] == b[0] or a[1] == b[1] for a, b in itertools.permutations(drawn, 2)))
            chances.append(1 / len(options))
    rows = [(row, picture, text) for row, (picture, texts) in enumerate(table) for text in texts]
    arrays = [np.array(column) for column in zip(*rows, strict=True)]
    found = BatchDraws.of(*arrays, captions).expected(batch)
    assert found == pytest.approx(np.average(counts, weights=chances), abs=1e-9)


def test_groups_are_joined_by_way_of_others() -> None:
    groups = Groups.joined(6, np.array([0, 2, 5]), np.array([2, 4, 3]))
    assert [sorted(some.tolist()) for some in groups.members(np.arange(len(groups)))] == [[0, 2, 4], [1], [3, 5]]
    assert groups.distinct(np.array([7, 0, 7, -1, 8, 1])).tolist() == [2, 1, 1]
    left, right = same_labels(np.array([3, -1, 3, -1, 3]))
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 2), (0, 4)]


@pytest.mark.parametrize("compared", [100_000, 1])
def test_no_pair_of_near_hashes_is_missed(compared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the index of small sets, and by that of large ones."""
    monkeypatch.setattr(same, "_COMPARED", compared)
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2**63, 60, dtype=np.uint64)
    for distance in range(1, 9):  # the same with some bits flipped
        flips = [sum(1 << int(bit) for bit in generator.choice(64, distance, replace=False)) for _ in range(20)]
        values = np.concatenate([values, values[:20] ^ np.array(flips, np.uint64)])
    values = np.unique(values)
    right = {
        (one, other)
        for one, other in itertools.combinations(range(len(values)), 2)
        if int(values[one] ^ values[other]).bit_count() <= 6
    }
    assert len(right) > 100 and set(same._near_hashes(values)) == right


@pytest.mark.parametrize(
    "text",
    [
        "IMG_1234",
        "img 20210304 121314",
        "DSC00012",
        "DSCN1234.JPG",
        "Screenshot 2021-03-04 at 12.13.14.png",
        "photo (3)",
        "untitled",
        "Untitled-1",
        "Image",
        "null",
        "N/A",
        "1234567",
        "2021-03-04",
        "5f3a9b2c1d4e6f70",
        "https://example.org/a.html",
        "beach-house_01.jpeg",
        "image not available",
    ],
)
def test_captions_that_say_nothing(text: str) -> None:
    assert is_generic(text)


@pytest.mark.parametrize(
    "text",
    [
        "a dog",
        "a photo of 3 dogs",
        "image of a cat",
        "dog",
        "the number 1234",
        "a file named dog.jpg on a desk",
        "page 3 of a book about birds",
        "untitled painting of a horse",
        "кошка",
        "🐶",
        "雪",
        "deadbeef",
        "facade",
    ],
)
def test_captions_that_say_something(text: str) -> None:
    assert not is_generic(text)


def test_file_names_as_captions() -> None:
    assert is_file_name("0001-b", "0001-B") and is_file_name("dog_3", "dog_3")
    assert (
        not is_file_name("dog", "dog") and not is_file_name("a dog 3", "a dog 3") and not is_file_name("cat_1", "dog_1")
    )


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a cafÃ© in the sun", "a café in the sun"),
        ("two â€œdogsâ€\x9d", "two “dogs”"),
        ("salt &amp; pepper", "salt & pepper"),
        ("a <b>red</b> car<br/>", "a red car"),
    ],
)
def test_wrong_encodings_are_told_and_mended(text: str, right: str) -> None:
    assert is_mojibake(text) and mended(text) == right and not is_mojibake(right)


@pytest.mark.parametrize(
    "text", ["a café", "naïve façade", "Ünïcödé", "1 < 2 & 3 > 2", "кошка", "日本語", "a — b “c”", "AT&T;"]
)
def test_right_encodings_are_left_alone(text: str) -> None:
    assert not is_mojibake(text)


def test_control_characters() -> None:
    assert has_control("a bell\x07") and mended("a bell\x07 rings") == "a bell rings"
    assert not has_control("two\nlines\tand tabs") and not has_control("zero\u200bwidth")


def test_scripts() -> None:
    assert [script_of(text) for text in ("a dog", "кошка in", "雪山", "犬がいる", "🐶", "כלב", "123")] == [
        "LATIN",
        "CYRILLIC",
        "CJK",
        "HIRAGANA",
        "none",
        "HEBREW",
        "none",
    ]
