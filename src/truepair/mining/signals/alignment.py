"""Signals from words: whether the words of a caption are among those of the captions that a picture has."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.mining.gallery import Integers
from truepair.mining.signals.encoded import Encoded, TokenStates

Floats = NDArray[np.float32]

ALIGNMENT_TERMS = ("mean", "rarity", "back", "back rarity", "one caption")

_NUMBERS = 1 << 20  # float32 numbers of token states that are compared at once: 4 MB, which stay in a core's own memory


@dataclass(frozen=True)
class _Words:
    """The words of some captions, one caption after the other; a caption without any has one that is like no other.

    Attributes:
        rows: of the token states [T].
        starts: place of each caption's first word [C].
        real: 1 for a word, 0 for one that stands for none, float32 [T].
        weights: how much each word tells [T].
    """

    rows: Integers
    starts: Integers
    real: Floats
    weights: Floats

    @classmethod
    def of(cls, tokens: TokenStates, captions: Integers) -> Self:
        """Those of some captions [C], at least one."""
        words = tokens.words.some(captions)
        rows = words.values
        return cls(
            rows, words.starts[:-1], tokens.content.numpy()[rows].astype(np.float32), tokens.weights.numpy()[rows]
        )

    def mean(self, values: Floats, weights: Floats, least: float) -> Floats:
        """Weighted mean over the words of each caption, [..., T] to [..., C]; 0 where all weights are."""
        sums: Floats = np.add.reduceat(values * weights, self.starts, axis=-1)
        total: Floats = np.add.reduceat(weights, self.starts)
        found: Floats = sums / total.clip(min=np.float32(least))
        return found


def alignment_columns(encoded: Encoded) -> tuple[str, ...]:
    """Columns of :func:`token_alignment`, layer by layer."""
    layers = 0 if encoded.tokens is None else encoded.tokens.layers
    terms = ALIGNMENT_TERMS[:4] if encoded.single else ALIGNMENT_TERMS
    return tuple(f"{layer + 1} of {layers} {term}" for layer in range(layers) for term in terms)


def token_alignment(encoded: Encoded, tokens: TokenStates, pictures: Integers, captions: Integers) -> Tensor:
    """How well the words of captions are matched by words of pictures' captions (Zhang et al., ICLR 2020, BERTScore).

    Cells of one picture are compared by one product of matrices, so its words are read once.

    Args:
        encoded: the gallery.
        tokens: of its captions.
        pictures: of each cell [P].
        captions: of each cell [P].

    Returns:
        [P, layers * 5], in each layer in the order of ``ALIGNMENT_TERMS``: the similarity of each token to the most
        similar token of the picture, as a mean over the tokens, and as a mean by rarity; the same from the picture's
        tokens to those of the caption; and the first mean if one of the captions must match all, which is left out of a
        gallery with one caption a picture.
    """
    found = np.empty((len(pictures), len(alignment_columns(encoded))), np.float32)
    for picture, cells in _by_picture(tokens, pictures, captions):
        own, asked = _Words.of(tokens, encoded.gallery.captions[picture]), _Words.of(tokens, captions[cells])
        similarity = _similarity(tokens, own, asked)  # [S, T, U]
        per_caption = np.maximum.reduceat(similarity, own.starts, axis=1)  # [S, K, U]
        best = per_caption.max(axis=1)  # [S, U]
        back = np.maximum.reduceat(similarity, asked.starts, axis=2)  # [S, T, A]
        columns = [asked.mean(best, asked.real, 1.0), asked.mean(best, asked.weights, 1e-6)]
        for weights in (own.real, own.weights):
            columns.append(np.einsum("sta,t->sa", back, weights) / max(float(weights.sum()), 1e-6))
        if not encoded.single:
            columns.append(asked.mean(per_caption, asked.real, 1.0).max(axis=1))
        found[cells] = np.stack(columns, axis=2).transpose(1, 0, 2).reshape(len(cells), -1)  # [A, S * 5]
    return torch.from_numpy(found)


def _by_picture(tokens: TokenStates, pictures: Integers, captions: Integers) -> Iterator[tuple[int, Integers]]:
    """Yield pictures with the places of their cells, so many that their words stay in a core's own memory."""
    order = np.argsort(pictures, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(pictures[order])) + 1, len(order))
    most = max(_NUMBERS // tokens.states.shape[0], 1)  # words
    start = 0
    for end in ends.tolist():
        read = np.cumsum(tokens.words.counts[captions[order[start:end]]])
        cuts = np.flatnonzero(np.diff(read // most)) + 1
        for cells in np.split(order[start:end], cuts):
            yield int(pictures[cells[0]]), cells
        start = end


def _similarity(tokens: TokenStates, own: _Words, asked: _Words) -> Floats:
    """Cosines of words in each layer, -1 with one that stands for none [S, T, U]."""
    left, right = (tokens.states.gather(torch.from_numpy(words.rows)) for words in (own, asked))
    left, right = (states.view(len(states), tokens.layers, -1).transpose(0, 1) for states in (left, right))
    cosines = torch.bmm(left, right.transpose(1, 2))  # [S, T, U]
    cosines /= left.norm(dim=2).clamp(min=1e-12)[:, :, None]  # fewer numbers than the states
    cosines /= right.norm(dim=2).clamp(min=1e-12)[:, None]
    found: Floats = cosines.numpy()
    found[:, own.real == 0] = -1.0
    found[:, :, asked.real == 0] = -1.0
    return found
