import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.mining.signals.galleries import encoded_of, gallery_of, undeclared
from truepair.mining.signals.encoded import Encoded
from truepair.mining.signals.nearby import Nearby


def near(encoded: Encoded, caption: int, count: int) -> list[int]:
    """The pictures that are the most like a caption and its first picture, all compared."""
    gallery = encoded.gallery
    assert encoded.images is not None
    images = F.normalize(encoded.images - encoded.images.mean(dim=0), dim=1)
    owner = int(gallery.pictures[caption][0])
    alike = images @ images[owner] + said(encoded) @ asked(encoded)[caption]
    alike[owner] = -torch.inf
    return alike.argsort(descending=True)[:count].tolist()


def asked(encoded: Encoded) -> Tensor:
    return F.normalize(encoded.captions - encoded.captions.mean(dim=0), dim=1)


def said(encoded: Encoded) -> Tensor:
    lists = encoded.gallery.captions
    means = torch.stack([encoded.captions[lists[picture]].mean(dim=0) for picture in range(len(lists))])
    return F.normalize(means - encoded.captions.mean(dim=0), dim=1)


@pytest.mark.parametrize(("most", "seed"), [(1, 0), (1, 3), (3, 1), (4, 2)])
def test_what_is_said_nearby_is_that_of_slow_loops(most: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truepair.mining.signals.nearby._NEAREST", 4)
    monkeypatch.setattr("truepair.mining.signals.nearby._CELLS", 7)
    monkeypatch.setattr("truepair.mining.signals.nearby._NUMBERS", 300)
    encoded = encoded_of(gallery_of(15, most, seed), seed)
    gallery, cells = encoded.gallery, undeclared(encoded.gallery)
    for row, picture, caption in zip(Nearby(encoded)(*cells), *(part.tolist() for part in cells), strict=True):
        owners = gallery.pictures[caption].tolist()
        around = [other for own in gallery.captions[picture] for other in near(encoded, int(own), 4)]
        here = said(encoded)[[other for other in around if other not in owners]].sum(dim=0)
        there = said(encoded)[[other for other in near(encoded, caption, 4) if other != picture]].sum(dim=0)
        here, there = F.normalize(here, dim=0), F.normalize(there, dim=0)
        expected = [here @ asked(encoded)[caption], there @ said(encoded)[picture], here @ there]
        assert row.tolist() == pytest.approx([float(value) for value in expected], abs=1e-4)


def test_a_caption_says_nothing_of_itself() -> None:
    """In a gallery of two pictures nothing is said by others."""
    encoded = encoded_of(gallery_of(2, 1, 0, shared=0), 0)
    assert Nearby(encoded)(*undeclared(encoded.gallery)).abs().max() < 1e-6
