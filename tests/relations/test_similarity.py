"""Similarities of features with and without a query axis are those of a loop over all pairs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.relations import similarity
from truepair.relations.similarity import as_products, paired_similarities, similarities


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def by_loop(images: Tensor, texts: Tensor) -> Tensor:
    queries = images if images.dim() == 3 else images[:, None]
    return torch.tensor([[max(float(query @ text) for query in image) for text in texts] for image in queries])


@pytest.mark.parametrize("cells", [1, 40, 1 << 24])
@pytest.mark.parametrize("shape", [(5, 6), (5, 3, 6)])
def test_similarities_are_those_of_a_loop(shape: tuple[int, ...], cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_CELLS", cells)
    images, texts = unit(*shape), unit(7, 6, seed=1)
    expected = by_loop(images, texts).double()
    torch.testing.assert_close(similarities(images, texts), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(similarities(texts, images), expected.T, atol=1e-6, rtol=0)
    torch.testing.assert_close(paired_similarities(images, texts[:5]), expected.diagonal(), atol=1e-6, rtol=0)
    one, other = as_products(images, texts)
    torch.testing.assert_close(one @ other.T, expected, atol=1e-6, rtol=0)
    one, other = as_products(texts, images)
    torch.testing.assert_close(one @ other.T, expected.T, atol=1e-6, rtol=0)


def test_features_without_queries_are_left_as_they_are() -> None:
    images, texts = unit(5, 6), unit(7, 6)
    assert as_products(images, texts) == (images, texts)


def test_images_with_queries_are_not_compared_with_each_other() -> None:
    with pytest.raises(ValueError, match="compared with texts only"):
        similarities(unit(5, 3, 6), unit(5, 3, 6))


def test_half_precision_is_compared_in_full() -> None:
    images, texts = unit(5, 3, 6).half(), unit(7, 6).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = as_products(images, texts)[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, similarities(images.float(), texts.float()), atol=0, rtol=0)
