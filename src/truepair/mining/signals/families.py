"""The families of signals, and the signals of any cells of a gallery.

A family is a :class:`Family`: what it is called, its columns, and what computes them for cells. A judge that is asked
about cells is one more; :func:`compute_signals` takes those of :func:`usual_families` and any others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from truepair.engine.logs.progress import counting
from truepair.errors import ConfigError, nearest
from truepair.mining.gallery import Integers
from truepair.mining.graph import FLOOR, PairGraph, agreement_of, with_known
from truepair.mining.signals.alignment import alignment_columns, token_alignment
from truepair.mining.signals.captions import (
    Kinds,
    hub_columns,
    relative_similarity,
    set_columns,
    set_similarity,
)
from truepair.mining.signals.encoded import Encoded, owners_of
from truepair.mining.signals.nearby import NEARBY_TERMS, Nearby
from truepair.mining.signals.pictures import ACROSS_TERMS, PICTURE_TERMS, Across, picture_similarity
from truepair.mining.signals.words import KIND_TERMS, WORD_TERMS, SharedWords

Floats = NDArray[np.float32]

FAMILIES = (
    "captions",
    "learned_captions",
    "alignment",
    "hubness",
    "words",
    "kinds",
    "pictures",
    "learned_pictures",
    "across",
    "nearby",
)
"""Families that need no judge, in the order of their columns."""

AGREEMENT_TERMS = ("common", "link", "share", "crowd")

_NAMED = 0.05  # least share of captions that name anything of the English kinds, for these to be told
_CELLS = 262_144  # cells between two steps of the bar


Compute = Callable[[Integers, Integers], Tensor]
"""Pictures [P] and captions [P] of cells to their signals, float32 [P, columns]; NaN where a signal says nothing."""


@dataclass(frozen=True)
class Family:
    """Signals that belong together.

    Attributes:
        name: of the family.
        columns: names of its signals.
        compute: cells to their signals.
    """

    name: str
    columns: tuple[str, ...]
    compute: Compute


def usual_families(encoded: Encoded, wanted: Sequence[str] | None = None) -> tuple[list[Family], list[str]]:
    """The families that a gallery has what they need for.

    Args:
        encoded: the gallery.
        wanted: names among ``FAMILIES``; None for all.

    Returns:
        The families, and a line on each that cannot be had.

    Raises:
        ConfigError: a name that does not exist.
    """
    for name in wanted or ():
        if name not in FAMILIES:
            raise ConfigError(
                f"there is no family of signals '{name}'{nearest(name, FAMILIES)}; give {', '.join(FAMILIES)}"
            )
    made = {name: _BUILT[name](encoded) for name in FAMILIES if wanted is None or name in wanted}
    found = [family for family in made.values() if isinstance(family, Family)]
    return found, [f"no signals '{name}': {why}" for name, why in made.items() if isinstance(why, str)]


def compute_signals(
    pictures: Integers, captions: Integers, families: Sequence[Family]
) -> tuple[Floats, tuple[str, ...]]:
    """Signals of cells.

    Args:
        pictures: number of each cell's picture, int64 [P].
        captions: number of its caption [P].
        families: of :func:`usual_families`, and any others.

    Returns:
        The signals [P, S], and their names, "family/column".
    """
    names = tuple(f"{family.name}/{column}" for family in families for column in family.columns)
    found = np.empty((len(pictures), len(names)), np.float32)
    start = 0
    for family in families:
        columns = slice(start, start + len(family.columns))
        with counting(f"signals: {family.name.replace('_', ' ')}") as show:
            for first in range(0, len(pictures), _CELLS):
                cells = slice(first, first + _CELLS)
                found[cells, columns] = family.compute(pictures[cells], captions[cells]).numpy()
                show(min(first + _CELLS, len(pictures)), len(pictures))
        start = columns.stop
    return found, names


def agreement_family(encoded: Encoded, graph: PairGraph) -> Family:
    """What the likely partners of a picture say of the pictures that a caption is declared for.

    Args:
        encoded: the gallery.
        graph: its pictures, with the log-odds that two of them match each other's captions.
    """
    # Without the log-odds of the edge itself; one row more, for what is no edge.
    evidence = F.pad(agreement_of(graph)[:, 1:], (0, 0, 0, 1))  # [E + 1, 4]
    keys = torch.cat([graph.rows * graph.size + graph.columns, torch.tensor([graph.size**2])])
    log_odds = F.pad(graph.log_odds, (0, 1), value=-torch.inf)

    def compute(pictures: Integers, captions: Integers) -> Tensor:
        """Evidence on the likeliest of a caption's pictures; NaN where none is a partner [P, 4]."""
        owners, there = owners_of(encoded.gallery, captions)  # [B, O]
        asked = torch.from_numpy(pictures)[:, None] * graph.size + owners
        place = torch.searchsorted(keys, asked)
        edge = there & (keys[place] == asked)
        odds = log_odds[place].masked_fill(~edge, -torch.inf)
        best, which = odds.max(dim=1)
        rows = evidence[place.gather(1, which[:, None])[:, 0]]
        return rows.masked_fill(~best.isfinite()[:, None], torch.nan)

    return Family("agreement", AGREEMENT_TERMS, compute)


def picture_graph(encoded: Encoded, pictures: Integers, captions: Integers, log_odds: Floats) -> PairGraph:
    """Pictures as a graph of partners.

    Two of them are as likely partners as the likeliest cell of one and a caption of the other; those that share a
    caption text are as good as certain.

    Args:
        encoded: the gallery.
        pictures: of each cell [P].
        captions: of each cell [P].
        log_odds: of each cell [P].
    """
    gallery = encoded.gallery
    size = len(gallery)
    owners, there = owners_of(gallery, captions)  # [P, O]
    rows = torch.from_numpy(pictures)[:, None].expand(owners.shape)[there]
    odds = torch.from_numpy(log_odds)[:, None].expand(owners.shape)[there].clamp(min=FLOOR)
    shared = np.flatnonzero(gallery.pictures.counts > 1)
    together, real = owners_of(gallery, shared)  # [T, O]
    both = real[:, :, None] & real[:, None, :]
    left = together[:, :, None].expand(both.shape)[both]
    right = together[:, None, :].expand(both.shape)[both]
    ends = torch.cat([rows, left]), torch.cat([owners[there], right])
    known = torch.arange(len(ends[0])) >= len(rows)
    odds = torch.cat([odds, torch.full((len(left),), FLOOR)])
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    apart = low != high
    keys, place = (low * size + high)[apart].unique(return_inverse=True)
    best = torch.full((len(keys),), FLOOR).scatter_reduce(0, place, odds[apart], "amax")
    declared = torch.zeros(len(keys)).scatter_reduce(0, place, known[apart].float(), "amax") > 0
    return with_known(PairGraph.of_proposals(size, keys // size, keys % size, best, declared))


def _of_captions(encoded: Encoded, compute: Compute) -> Compute:
    """The same of a family that reads only captions: of pictures with the same ones it is computed once."""

    def once(pictures: Integers, captions: Integers) -> Tensor:
        """Signals of cells [P, columns]."""
        *cells, place = encoded.gallery.distinct(pictures, captions)
        return compute(*cells)[torch.from_numpy(place)]

    return once


def _captions(encoded: Encoded) -> Family:
    return Family(
        "captions",
        set_columns(encoded),
        _of_captions(encoded, lambda *cells: set_similarity(encoded, encoded.captions, *cells)),
    )


def _learned_captions(encoded: Encoded) -> Family | str:
    vectors = encoded.learned_captions
    if vectors is None:
        return "hardly any picture has several captions"
    return Family(
        "learned_captions",
        set_columns(encoded),
        _of_captions(encoded, lambda *cells: set_similarity(encoded, vectors, *cells)),
    )


def _alignment(encoded: Encoded) -> Family | str:
    tokens = encoded.tokens
    if tokens is None:
        return "the text encoder's token states were not asked for"
    return Family(
        "alignment",
        alignment_columns(encoded),
        _of_captions(encoded, lambda *cells: token_alignment(encoded, tokens, *cells)),
    )


def _hubness(encoded: Encoded) -> Family:
    return Family(
        "hubness",
        hub_columns(encoded),
        lambda pictures, captions: relative_similarity(encoded, pictures, captions),
    )


def _words(encoded: Encoded) -> Family | str:
    shared = SharedWords(encoded.gallery)
    if shared.worded < _NAMED:
        return f"{shared.worded:.0%} of the captions have words of Latin letters"
    return Family("words", WORD_TERMS, _of_captions(encoded, shared))


def _kinds(encoded: Encoded) -> Family | str:
    kinds = Kinds(encoded)
    if kinds.named < _NAMED:
        return f"{kinds.named:.0%} of the captions name people, animals, numbers, colours, places or actions in English"
    return Family("kinds", KIND_TERMS, _of_captions(encoded, kinds))


def _pictures(encoded: Encoded) -> Family | str:
    images, near = encoded.centred_images, encoded.near_images
    if images is None or near is None:
        return "the pictures were not encoded"
    return Family(
        "pictures",
        PICTURE_TERMS,
        lambda pictures, captions: picture_similarity(encoded, images, near, pictures, captions),
    )


def _learned_pictures(encoded: Encoded) -> Family | str:
    images, near = encoded.learned_images, encoded.near_learned
    if images is None or near is None:
        return "too few pictures share a caption text"
    return Family(
        "learned_pictures",
        PICTURE_TERMS,
        lambda pictures, captions: picture_similarity(encoded, images, near, pictures, captions),
    )


def _across(encoded: Encoded) -> Family | str:
    if encoded.across is None:
        return "neither pictures were encoded nor a dual encoder given"
    return Family("across", ACROSS_TERMS, Across(encoded))


def _nearby(encoded: Encoded) -> Family | str:
    if encoded.images is None:
        return "the pictures were not encoded"
    return Family("nearby", NEARBY_TERMS, Nearby(encoded))


_BUILT: dict[str, Callable[[Encoded], Family | str]] = {
    "captions": _captions,
    "learned_captions": _learned_captions,
    "alignment": _alignment,
    "hubness": _hubness,
    "words": _words,
    "kinds": _kinds,
    "pictures": _pictures,
    "learned_pictures": _learned_pictures,
    "across": _across,
    "nearby": _nearby,
}
"""What makes each family of a gallery, or says why it cannot be had."""
