from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.mining.signals.galleries import encoded_of, gallery_of, undeclared
from truepair.mining.signals.alignment import token_alignment
from truepair.mining.signals.encoded import TokenStates
from truepair.models.encoders.frozen import FrozenStates, StateBlock


def cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum())


def mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


def weighted(values: list[float], weights: list[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / max(sum(weights), 1e-6)


def tokens_of(count: int, folder: Path, seed: int, layers: int = 2, width: int = 3) -> TokenStates:
    """Tokens of captions: the first of each is special, none to 4 follow."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 6, (count,), generator=generator)
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
    monkeypatch.setattr("truepair.mining.signals.alignment._NUMBERS", 1 << 6)  # in several parts
    cells = undeclared(gallery)
    found = token_alignment(encoded, tokens, *cells)

    def words(caption: int, layer: int) -> tuple[Tensor, list[float]]:
        rows = torch.arange(int(tokens.counts[caption])) + tokens.first[caption]
        rows = rows[tokens.content[rows]]
        states = tokens.states.gather(rows).view(len(rows), tokens.layers, tokens.states.shape[0] // tokens.layers)[
            :, layer
        ]
        return F.normalize(states, dim=1), tokens.weights[rows].tolist()

    for row, picture, caption in zip(found.tolist(), *(part.tolist() for part in cells), strict=True):
        expected = []
        for layer in range(tokens.layers):
            asked, told = words(caption, layer)
            per = [
                [max((cosine(token, other) for other in words(own, layer)[0]), default=-1.0) for token in asked]
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
