import numpy as np
import pytest

from tests.data.test_table import table_of
from tests.mining.signals.galleries import gallery_of
from truepair.mining.gallery import Gallery, Lists


@pytest.mark.parametrize("seed", range(3))
def test_of_pictures_with_the_same_captions_one_stands_for_all(seed: int) -> None:
    gallery = gallery_of(12, 2, seed, shared=5)
    draw = np.random.default_rng(seed)
    pictures, captions = draw.integers(0, len(gallery), 60), draw.integers(0, len(gallery.texts), 60)
    some, asked, place = gallery.distinct(pictures, captions)
    said = {
        (tuple(gallery.captions[picture]), caption)
        for picture, caption in zip(pictures.tolist(), captions.tolist(), strict=True)
    }
    assert len(some) == len(asked) == len(said)
    assert np.array_equal(asked[place], captions)
    for picture, stands in zip(pictures, some[place], strict=True):
        assert gallery.captions[stands].tolist() == gallery.captions[picture].tolist()


def test_some_lists_are_lists_again() -> None:
    lists = Lists(np.array([0, 2, 2, 5]), np.array([7, 8, 1, 2, 3]))
    some = lists.some(np.array([2, 1, 0, 2]))
    assert [some[number].tolist() for number in range(len(some))] == [[1, 2, 3], [], [7, 8], [1, 2, 3]]
    assert len(lists.some(np.zeros(0, np.int64))) == 0


def test_pictures_with_the_same_captions_are_one_set() -> None:
    gallery = Gallery.of_table(table_of([["a", "b"], ["c"], ["a", "b"], ["b", "a"], ["c"]]))
    assert gallery.alike.tolist() == [0, 1, 0, 2, 1] and gallery.first_alike.tolist() == [0, 1, 3]
