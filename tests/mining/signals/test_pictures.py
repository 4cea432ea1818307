import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.data.test_table import table_of
from tests.mining.signals.galleries import encoded_of, gallery_of, undeclared
from truepair.mining.gallery import Gallery
from truepair.mining.signals.encoded import CROWD
from truepair.mining.signals.pictures import Across, picture_similarity
from truepair.mining.signals.spaces import picture_space, predicted_captions


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
