import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.data.test_table import table_of
from tests.mining.signals.galleries import encoded_of, gallery_of, undeclared
from truepair.mining.gallery import Gallery
from truepair.mining.signals import pictures as picture_signals
from truepair.mining.signals.encoded import CROWD
from truepair.mining.signals.pictures import Across, best_owners, picture_similarity
from truepair.mining.signals.spaces import FOLDS, list_means, picture_space, predicted_captions


@pytest.mark.parametrize("numbers", [1, 40, 1 << 20])
def test_the_most_alike_of_the_pictures_of_a_caption_is_that_of_slow_loops(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_signals, "_NUMBERS", numbers)
    gallery = Gallery.of_table(table_of([[f"text {number % 5}", f"other {number}"] for number in range(13)]))
    generator = torch.Generator().manual_seed(0)
    vectors, images = torch.randn(9, 4, generator=generator), torch.randn(13, 4, generator=generator)
    draw = np.random.default_rng(0)
    rows, captions = draw.integers(0, 9, 70), draw.integers(0, len(gallery.texts), 70) // 3 * 3  # some are popular
    best, owner = best_owners(gallery, vectors, images, rows, captions, 2)
    for row, caption, value, picture in zip(rows, captions, best.tolist(), owner.tolist(), strict=True):
        products = {int(one): float(vectors[row] @ images[one]) for one in gallery.pictures[caption][:2]}
        assert picture == max(products, key=lambda one: products[one])
        assert value == pytest.approx(products[picture], abs=1e-5)
    none = np.zeros(0, np.int64)
    assert len(best_owners(gallery, vectors, images, none, none, 2)[0]) == 0


@pytest.mark.parametrize(("most", "seed"), [(1, 0), (3, 1)])
def test_likeness_of_pictures_is_that_of_slow_loops(most: int, seed: int) -> None:
    encoded = encoded_of(gallery_of(15, most, seed), seed)
    images, near = encoded.centred_images, encoded.near_images
    assert images is not None and near is not None
    cells = undeclared(encoded.gallery)
    found = picture_similarity(encoded, images, near, *cells)
    cosines = (images @ images.T).fill_diagonal_(-2)
    crowd = cosines.topk(CROWD, dim=1).values.mean(dim=1)
    for row, picture, caption in zip(found.tolist(), *(part.tolist() for part in cells), strict=True):
        best, owner = max(
            (float(cosines[picture, owner]), owner) for owner in encoded.gallery.pictures[caption].tolist()
        )
        assert row == pytest.approx([best, 2 * best - float(crowd[picture] + crowd[owner])], abs=1e-5)


@pytest.mark.parametrize(("most", "seed"), [(1, 0), (3, 1)])
def test_pictures_against_captions_is_that_of_slow_loops(most: int, seed: int) -> None:
    gallery = gallery_of(14, most, seed)
    generator = torch.Generator().manual_seed(seed)
    dual = tuple(F.normalize(torch.randn(n, 4, generator=generator), dim=1) for n in (14, len(gallery.texts)))
    encoded = encoded_of(gallery, seed, dual=dual)
    cells = undeclared(gallery)
    found = Across(encoded)(*cells)
    scores = dual[0] @ dual[1].T
    other = scores.clone()
    other[torch.from_numpy(gallery.captions.owners), torch.from_numpy(gallery.captions.values)] = -torch.inf
    for row, picture, caption in zip(found.tolist(), *(part.tolist() for part in cells), strict=True):
        value, own = float(scores[picture, caption]), gallery.captions[picture].tolist()
        back = max(float(scores[owner, mine]) for owner in gallery.pictures[caption].tolist() for mine in own)
        crowds = []
        for line in (other[picture], other[:, caption]):
            best = line[line.isfinite()].sort(descending=True).values[:CROWD]
            crowds.append(float(best.mean()))
        expected = [value, back, value - max(float(scores[picture, mine]) for mine in own)]
        assert row == pytest.approx([*expected, *(value - crowd for crowd in crowds)], abs=1e-5)


def test_no_picture_is_projected_by_a_map_that_knew_its_captions() -> None:
    gallery = gallery_of(40, 2, 0, shared=0)
    generator = torch.Generator().manual_seed(0)
    images, vectors = torch.randn(40, 4, generator=generator), torch.randn(len(gallery.texts), 3, generator=generator)
    before = predicted_captions(images, vectors, gallery.captions)
    changed = vectors.clone()
    changed[gallery.captions[7]] += 1.0
    after = predicted_captions(images, changed, gallery.captions)
    assert torch.allclose(before[7], after[7], atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize(("pictures", "seed", "few"), [(40, 0, 0), (40, 0, 1024), (3, 1, 1024)])
def test_captions_are_predicted_as_by_a_regression_for_each_fold(
    pictures: int, seed: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truepair.mining.signals.spaces._FEW", few)
    monkeypatch.setattr("truepair.mining.signals.spaces._SUMMED", 3)  # in several parts
    gallery = gallery_of(pictures, 2, seed, shared=1)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(pictures, 4, generator=generator) + 1
    vectors = torch.randn(len(gallery.texts), 3, generator=generator)
    found = predicted_captions(images, vectors, gallery.captions)
    targets = list_means(vectors, gallery.captions)
    fold = [int(gallery.captions[number][0]) % FOLDS for number in range(pictures)]
    for picture in range(pictures):
        others = [other for other in range(pictures) if fold[other] != fold[picture]]
        centre = images[others].mean(dim=0)
        inputs, wanted = images[others] - centre, targets[others] - targets[others].mean(dim=0)
        # A penalty is as good as rows more: its root on the diagonal, and 0 to be told.
        padded = torch.cat([inputs, 0.3**0.5 * torch.eye(4)]), torch.cat([wanted, torch.zeros(4, 3)])
        expected = (images[picture] - centre) @ torch.linalg.lstsq(*padded).solution
        torch.testing.assert_close(found[picture], F.normalize(expected, dim=0), atol=1e-4, rtol=1e-4)


def test_captions_of_a_gallery_of_one_fold_are_predicted_by_all_pictures() -> None:
    gallery = Gallery.of_table(table_of([["one text"], ["one text"]]))
    images, vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    found = predicted_captions(images, vectors, gallery.captions)
    assert found.shape == (2, 2) and bool(found.isfinite().all())


def test_directions_of_a_space_of_pictures_are_those_of_a_singular_value_decomposition() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 12, generator=generator).repeat_interleave(2, dim=0)
    images = images + 0.5 * torch.randn(120, 12, generator=generator)
    gallery = Gallery.of_table(table_of([[f"concept {number // 2}"] for number in range(120)]))
    space = picture_space(images, gallery.pictures, width=5, shrinkage=0.5)
    assert space is not None
    vectors = (images - images.mean(dim=0)).double()
    means = (vectors[::2] + vectors[1::2]) / 2
    within = vectors - means.repeat_interleave(2, dim=0)
    covariance = within.T @ within / 120
    covariance = (covariance + covariance.diagonal().mean() * torch.eye(12)) / 2
    values, axes = torch.linalg.eigh(covariance)
    root = (axes / values.sqrt()) @ axes.T
    directions = torch.linalg.svd(root @ means.T)[0][:, :5]
    expected = root @ directions
    # Signs and order of directions are free: what a space says of pictures is its products.
    torch.testing.assert_close((space.map @ space.map.T).double(), expected @ expected.T, atol=1e-4, rtol=1e-4)


def test_a_space_of_pictures_is_fitted_on_those_that_share_a_text_and_on_no_fewer_than_it_needs() -> None:
    generator = torch.Generator().manual_seed(0)
    concepts = torch.randn(60, 6, generator=generator)
    noise = torch.randn(120, 6, generator=generator) * torch.tensor([6.0, 6.0, 6.0, 0.1, 0.1, 0.1])
    images = concepts.repeat_interleave(2, dim=0) + noise
    gallery = Gallery.of_table(table_of([[f"concept {number // 2}"] for number in range(120)]))
    space = picture_space(images, gallery.pictures, width=6, shrinkage=0.01)
    assert space is not None
    found = F.normalize(images - images.mean(dim=0), dim=1), space(images)
    alike, before = ((vectors[::2] * vectors[1::2]).sum(dim=1).mean() for vectors in reversed(found))
    assert float(alike) > float(before) + 0.3
    assert picture_space(images, gallery.pictures, width=64) is None
    assert np.array_equal(gallery.pictures.counts, np.full(60, 2))
    few = Gallery.of_table(table_of([[f"concept {number // 2 if number < 58 else number}"] for number in range(120)]))
    assert picture_space(images, few.pictures, width=6, shrinkage=0.01) is None  # 58 of 120 pictures share a text
