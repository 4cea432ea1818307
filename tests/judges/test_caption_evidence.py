import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from truepair.errors import DataError
from truepair.judges.caption_evidence import (
    caption_pairs,
    caption_space,
    image_to_caption,
    owners_and_places,
    relative_similarity,
    set_similarity,
    token_alignment,
)
from truepair.relations.pairs import PairSet


def made_up(images: int, each: int, seed: int, width: int = 5) -> tuple[Tensor, PairSet]:
    """Sentence vectors, and all pairs of an image and a caption of another."""
    vectors = F.normalize(torch.randn(images, each, width, generator=torch.Generator().manual_seed(seed)), dim=2)
    cells = [(i, j, k) for i in range(images) for j in range(images) for k in range(each) if i != j]
    return vectors, caption_pairs(*torch.tensor(cells).T, vectors.shape)


def cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum())


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@settings(max_examples=10, deadline=None)
@given(images=st.integers(2, 4), each=st.integers(2, 3), seed=st.integers(0, 99))
def test_similarity_of_sets_is_that_of_slow_loops(images: int, each: int, seed: int) -> None:
    vectors, pairs = made_up(images, each, seed)
    found = set_similarity(vectors, pairs)
    cells = zip(*(column.tolist() for column in (pairs.rows, *owners_and_places(pairs))), strict=True)
    for row, (image, owner, place) in zip(found.tolist(), cells, strict=True):
        caption = vectors[owner, place]
        near = [cosine(caption, own) for own in vectors[image]]
        home = [cosine(caption, vectors[owner, other]) for other in range(each) if other != place]
        across = [cosine(theirs, ours) for theirs in vectors[owner] for ours in vectors[image]]
        margins = [max(near) - max(home), mean(near) - mean(home)]
        assert row == pytest.approx([max(near), mean(near), max(across), mean(across), *margins], abs=1e-5)


@settings(max_examples=10, deadline=None)
@given(images=st.integers(2, 5), each=st.integers(2, 3), seed=st.integers(0, 99), nearest=st.integers(1, 4))
def test_relative_similarity_is_that_of_slow_loops(images: int, each: int, seed: int, nearest: int) -> None:
    vectors, pairs = made_up(images, each, seed)
    found = relative_similarity(vectors, pairs, nearest)
    cells = zip(*(column.tolist() for column in (pairs.rows, *owners_and_places(pairs))), strict=True)
    for row, (image, owner, place) in zip(found.tolist(), cells, strict=True):
        expected = []
        for pool in (max, mean):

            def similarity(a: int, b: int, k: int, pool=pool) -> float:
                return pool([cosine(vectors[b, k], own) for own in vectors[a]])

            value = similarity(image, owner, place)
            of_caption = [similarity(a, owner, place) for a in range(images) if a != owner]
            of_image = [similarity(image, b, k) for b in range(images) for k in range(each) if b != image]
            for others in (of_caption, of_image):
                expected.append(value - mean(sorted(others, reverse=True)[:nearest]))
        assert row == pytest.approx(expected, abs=1e-5)


def tokens(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """States, mask and weights of captions of 1 to 4 tokens."""
    generator = torch.Generator().manual_seed(seed)
    states = F.normalize(torch.randn(count, 4, 3, generator=generator), dim=2)
    mask = torch.arange(4) < torch.randint(1, 5, (count, 1), generator=generator)
    weights = torch.randint(0, 3, (count, 4), generator=generator) * mask
    return states, mask, weights.float()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_alignment_is_that_of_slow_loops(seed: int) -> None:
    states, mask, weights = tokens(3, seed)
    others, others_mask, _ = tokens(2, seed + 1000)
    found = token_alignment(states, mask, weights, others, others_mask)
    image = [caption[shown] for caption, shown in zip(others, others_mask, strict=True)]
    for row, caption, weight in zip(
        found.tolist(), [s[m] for s, m in zip(states, mask, strict=True)], weights, strict=True
    ):
        per = [[max(cosine(token, other) for other in own) for token in caption] for own in image]
        best = [max(column) for column in zip(*per, strict=True)]
        told = list(zip(best, weight.tolist(), strict=False))
        weighted = sum(value * w for value, w in told) / max(sum(w for _, w in told), 1e-6)
        expected = [mean(best), weighted, max(map(mean, per))]
        assert row == pytest.approx(expected, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_alignment_knows_a_caption_of_the_image_itself_and_ignores_padding(seed: int) -> None:
    states, mask, weights = tokens(3, seed)
    found = token_alignment(states, mask, weights, states, mask)
    assert torch.allclose(found[:, [0, 2]], torch.ones(3, 2), atol=1e-5)
    noise = torch.where(mask[:, :, None], states, states.flip(2) + 1)
    assert torch.allclose(found, token_alignment(noise, mask, weights, noise, mask), atol=1e-6)
    turned = token_alignment(states, mask, weights, states.flip(0), mask.flip(0))
    assert torch.allclose(found, turned, atol=1e-6)


def test_a_space_of_captions_makes_differences_within_images_alike_in_all_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    loud = torch.tensor([10.0, 1.0, 1.0])  # what captions of one image differ in most
    vectors = torch.randn(400, 1, 3, generator=generator) + loud * torch.randn(400, 5, 3, generator=generator)
    space = caption_space(vectors, shrinkage=1e-9)
    mapped = (vectors - space.mean) @ space.map
    differences = (mapped - mapped.mean(dim=1, keepdim=True)).flatten(0, 1)
    assert torch.allclose(differences.T @ differences / len(differences), torch.eye(3), atol=1e-3)
    assert torch.allclose(space(vectors).norm(dim=2), torch.ones(400, 5), atol=1e-5)
    with pytest.raises(DataError, match="several"):
        caption_space(vectors[:, :1])


def test_image_to_caption_finds_a_linear_relation() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(200, 4, generator=generator)
    relation = torch.randn(4, 3, generator=generator)
    vectors = (images @ relation)[:, None] + 1.0 + 0.1 * torch.randn(200, 5, 3, generator=generator)
    predict = image_to_caption(images, vectors, penalty=1e-3)
    expected = F.normalize((images - images.mean(dim=0)) @ relation, dim=1)
    assert torch.allclose(predict(images), expected, atol=0.05)
    shrunk = image_to_caption(images, vectors, penalty=1e6)
    assert float(shrunk.map.norm()) < 0.01 * float(predict.map.norm())
