import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.mining.signals.galleries import encoded_of, gallery_of, undeclared
from truepair.errors import DataError
from truepair.mining.signals.captions import relative_similarity, set_similarity
from truepair.mining.signals.encoded import CROWD, Encoded
from truepair.mining.signals.spaces import caption_space, list_means


def cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum())


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def home_of(encoded: Encoded, caption: int) -> list[int]:
    """The other captions of a caption's pictures."""
    lists = encoded.gallery.captions
    owners = encoded.gallery.pictures[caption].tolist()
    return sorted({other for owner in owners for other in lists[owner].tolist()} - {caption})


@settings(max_examples=15)
@given(pictures=st.integers(3, 7), most=st.integers(1, 4), seed=st.integers(0, 99))
def test_similarity_of_sets_is_that_of_slow_loops(pictures: int, most: int, seed: int) -> None:
    encoded = encoded_of(gallery_of(pictures, most, seed), seed)
    cells = undeclared(encoded.gallery)
    found = set_similarity(encoded, encoded.captions, *cells)
    vectors = encoded.captions
    for row, picture, caption in zip(found.tolist(), *(part.tolist() for part in cells), strict=True):
        own = encoded.gallery.captions[picture].tolist()
        near = [cosine(vectors[caption], vectors[other]) for other in own]
        if encoded.single:
            assert row == pytest.approx([max(near)], abs=1e-5)
            continue
        home = [cosine(vectors[caption], vectors[other]) for other in home_of(encoded, caption)]
        theirs = [caption, *home_of(encoded, caption)]
        across = [cosine(vectors[one], vectors[other]) for one in theirs for other in own]
        margins = [max(near) - max(home, default=math.nan), mean(near) - mean(home)]
        expected = [max(near), mean(near), max(across), mean(across), *margins]
        assert row == pytest.approx(expected, abs=1e-5, nan_ok=True)


@settings(max_examples=15)
@given(pictures=st.integers(3, 20), most=st.integers(1, 4), seed=st.integers(0, 99))
def test_relative_similarity_is_that_of_slow_loops(pictures: int, most: int, seed: int) -> None:
    encoded = encoded_of(gallery_of(pictures, most, seed), seed)
    gallery = encoded.gallery
    cells = undeclared(gallery)
    found = relative_similarity(encoded, *cells)
    for row, picture, caption in zip(found.tolist(), *(part.tolist() for part in cells), strict=True):
        expected = []
        for pool in (max,) if encoded.single else (max, mean):

            def similarity(a: int, c: int, pool=pool) -> float:
                return pool([cosine(encoded.captions[c], encoded.captions[own]) for own in gallery.captions[a]])

            value = similarity(picture, caption)
            of_caption = [similarity(a, caption) for a in range(len(gallery)) if caption not in gallery.captions[a]]
            of_picture = [
                similarity(picture, c) for c in range(len(gallery.texts)) if c not in gallery.captions[picture]
            ]
            for others in (of_caption, of_picture):
                expected.append(value - mean(sorted(others, reverse=True)[:CROWD]))
        assert row == pytest.approx(expected, abs=1e-5)


def test_a_space_of_captions_makes_differences_within_pictures_alike_in_all_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    gallery = gallery_of(250, 5, 0, shared=0)
    owners = torch.from_numpy(np.repeat(np.arange(250), gallery.captions.counts))
    loud = torch.tensor([10.0, 1.0, 1.0])  # what captions of one picture differ in most
    vectors = torch.randn(250, 3, generator=generator)[owners] + loud * torch.randn(len(owners), 3, generator=generator)
    space = caption_space(vectors, gallery.captions, shrinkage=1e-9)
    mapped = (vectors - space.mean) @ space.map
    several = torch.from_numpy(gallery.captions.counts > 1)[owners]
    differences = (mapped - list_means(mapped, gallery.captions)[owners])[several]
    assert torch.allclose(differences.T @ differences / len(differences), torch.eye(3), atol=1e-3)
    assert torch.allclose(space(vectors).norm(dim=1), torch.ones(len(vectors)), atol=1e-5)
    single = gallery_of(10, 1, 0)
    with pytest.raises(DataError, match="several"):
        caption_space(torch.randn(len(single.texts), 3), single.captions)
