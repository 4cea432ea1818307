import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.mining.signals.galleries import encoded_of, gallery_of, undeclared
from truepair.errors import DataError
from truepair.mining.signals.captions import relative_similarity, set_similarity, token_alignment
from truepair.mining.signals.encoded import CROWD, Encoded, TokenStates
from truepair.mining.signals.spaces import caption_space, list_means
from truepair.models.encoders.frozen import FrozenStates, StateBlock


def cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum())


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def weighted(values: list[float], weights: list[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / max(sum(weights), 1e-6)


def home_of(encoded: Encoded, caption: int) -> list[int]:
    """The other captions of a caption's pictures."""
    lists = encoded.gallery.captions
    owners = encoded.gallery.pictures[caption].tolist()
    return sorted({other for owner in owners for other in lists[owner].tolist()} - {caption})


@settings(max_examples=15, deadline=None)
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


@settings(max_examples=15, deadline=None)
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


def tokens_of(count: int, folder: Path, seed: int, layers: int = 2, width: int = 3) -> TokenStates:
    """Tokens of captions: the first of each is special, 1 to 4 follow."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(2, 6, (count,), generator=generator)
    first = counts.cumsum(0) - counts
    rows = int(counts.sum())
    states = torch.randn(rows, layers * width, generator=generator).half().float()
    cache = FrozenStates.open_or_compute(
        folder, f"{seed}", rows, (layers * width,), lambda _: iter([StateBlock(states)])
    )
    content = torch.ones(rows, dtype=torch.bool)
    content[first] = False
    weights = torch.randint(0, 3, (rows,), generator=generator) * content
    return TokenStates(cache, first, counts, content, weights.float(), layers)


@pytest.mark.parametrize(("most", "seed"), [(1, 0), (3, 1), (4, 2)])
def test_alignment_is_that_of_slow_loops(most: int, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = gallery_of(5, most, seed)
    tokens = tokens_of(len(gallery.texts), tmp_path, seed)
    encoded = encoded_of(gallery, seed, tokens=tokens)
    monkeypatch.setattr("truepair.mining.signals.captions._NUMBERS", 1 << 10)  # in several parts
    cells = undeclared(gallery)
    found = token_alignment(encoded, tokens, *cells)

    def words(caption: int, layer: int) -> tuple[Tensor, list[float]]:
        rows = torch.arange(int(tokens.counts[caption])) + tokens.first[caption]
        rows = rows[tokens.content[rows]]
        states = tokens.states.gather(rows).view(len(rows), tokens.layers, -1)[:, layer]
        return F.normalize(states, dim=1), tokens.weights[rows].tolist()

    for row, picture, caption in zip(found.tolist(), *(part.tolist() for part in cells), strict=True):
        expected = []
        for layer in range(tokens.layers):
            asked, told = words(caption, layer)
            per = [
                [max(cosine(token, other) for other in words(own, layer)[0]) for token in asked]
                for own in gallery.captions[picture].tolist()
            ]
            best = [max(column) for column in zip(*per, strict=True)]
            theirs = [words(own, layer) for own in gallery.captions[picture].tolist()]
            back = [
                max((cosine(token, other) for other in asked), default=-1.0) for states, _ in theirs for token in states
            ]
            back_told = [weight for _, weights in theirs for weight in weights]
            expected += [mean(best), weighted(best, told), mean(back), weighted(back, back_told)]
            expected += [] if encoded.single else [max(map(mean, per))]
        assert row == pytest.approx(expected, abs=1e-4)


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
