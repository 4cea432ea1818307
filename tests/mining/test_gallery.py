import numpy as np
import pytest

from tests.mining.signals.galleries import gallery_of


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
