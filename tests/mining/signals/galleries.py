"""Made-up galleries: pictures with one caption or several, texts that several pictures share, random vectors."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.data.test_table import table_of
from truepair.mining.gallery import Gallery, Integers
from truepair.mining.signals.encoded import Encoded


def gallery_of(pictures: int, most: int, seed: int, shared: int = 2) -> Gallery:
    """Pictures with 1 to ``most`` captions each; a few texts are those of several pictures."""
    draw = random.Random(seed)
    own = [[f"text {number} {place}" for place in range(draw.randint(1, most))] for number in range(pictures)]
    for number in range(shared):
        own[draw.randrange(pictures)][0] = f"shared {number}"
        own[draw.randrange(pictures)][0] = f"shared {number}"
    return Gallery.of_table(table_of(own))


def encoded_of(gallery: Gallery, seed: int, width: int = 5, **fields: object) -> Encoded:
    """A gallery with random vectors of captions and pictures."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(count: int) -> Tensor:
        """Random unit vectors."""
        return F.normalize(torch.randn(count, width, generator=generator), dim=1)

    return Encoded(gallery, drawn(len(gallery.texts)), images=drawn(len(gallery)), **fields)  # type: ignore[arg-type]


def undeclared(gallery: Gallery) -> tuple[Integers, Integers]:
    """All undeclared cells."""
    cells = np.setdiff1d(np.arange(len(gallery) * len(gallery.texts)), gallery.declared)
    return cells // len(gallery.texts), cells % len(gallery.texts)
