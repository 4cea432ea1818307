"""The losses of a step as a textbook has them: one pair, one token, one candidate at a time."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from truepair.data.pairs import PairBatch
from truepair.models.fusion.albef import AlbefModel
from truepair.objectives.mlm import TokenMasker
from truepair.randomness import sample_keys

Cell = tuple[int, int]
"""An image row and a text row of a batch."""


class Features(NamedTuple):
    """Features of a batch by a model, each [B, E]."""

    images: Tensor
    texts: Tensor


@torch.no_grad()
def features(model: AlbefModel, batch: PairBatch) -> Features:
    assert batch.pixel_values is not None
    return Features(
        model.encode_images(batch.pixel_values).features,
        model.encode_texts(batch.input_ids, batch.attention_mask).features,
    )


def itc(
    anchors: Tensor,
    candidates: Tensor,
    temperature: float,
    targets: Mapping[int, Mapping[int, float]],
    weights: Callable[[int, int], float] = lambda anchor, candidate: 1.0,
) -> float:
    """One direction: the mean over anchors of - sum_c target * log(exp(s_c) / sum_k weight_k exp(s_k))."""
    losses = []
    for anchor, row in targets.items():
        logits = [float(anchors[anchor] @ candidate) / temperature for candidate in candidates]
        below = math.log(sum(weights(anchor, c) * math.exp(logit) for c, logit in enumerate(logits)))
        losses.append(-sum(share * (logits[c] - below) for c, share in row.items()))
    return sum(losses) / len(losses)


def multi_hot(size: int, matches: Collection[Cell], *, of_texts: bool = False) -> dict[int, dict[int, float]]:
    """Target rows: the own pair and the matches of an anchor, in equal shares."""
    rows = {}
    for anchor in range(size):
        cells = [(c, anchor) if of_texts else (anchor, c) for c in range(size)]
        found = [c for c, cell in enumerate(cells) if c == anchor or cell in matches]
        rows[anchor] = {c: 1 / len(found) for c in found}
    return rows


def symmetric_itc(
    found: Features, temperature: float, matches: Collection[Cell] = (), left_out: Collection[Cell] = ()
) -> float:
    """ITC with further matches, and pairs that are left out of the denominators."""
    size = len(found.images)
    i2t = itc(
        found.images, found.texts, temperature, multi_hot(size, matches), lambda a, c: float((a, c) not in left_out)
    )
    t2i = itc(
        found.texts,
        found.images,
        temperature,
        multi_hot(size, matches, of_texts=True),
        lambda a, c: float((c, a) not in left_out),
    )
    return (i2t + t2i) / 2


def ranking(found: Features, barred: Collection[Cell]) -> tuple[list[list[int]], list[list[int]]]:
    """Texts of each image and images of each text, the most similar first, without own pairs and barred ones."""
    cosines = found.images @ found.texts.T
    everyone = range(len(cosines))
    texts = [
        sorted((t for t in everyone if t != i and (i, t) not in barred), key=lambda t: -cosines[i, t]) for i in everyone
    ]
    images = [
        sorted((i for i in everyone if i != t and (i, t) not in barred), key=lambda i: -cosines[i, t]) for t in everyone
    ]
    return texts, images


@torch.no_grad()
def itm(model: AlbefModel, batch: PairBatch, matches: list[Cell], others: list[Cell]) -> float:
    """Mean cross-entropy, one pair after the other."""
    losses = []
    for cells, label in ((matches, 1), (others, 0)):
        for image, text in cells:
            assert batch.pixel_values is not None
            logits = model(
                batch.pixel_values[image : image + 1],
                batch.input_ids[text : text + 1],
                batch.attention_mask[text : text + 1],
            ).itm_logits
            losses.append(-float(logits.log_softmax(dim=1)[0, label]))
    return sum(losses) / len(losses)


class Reading(NamedTuple):
    """A row of MLM: what is read, and the key of its mask."""

    image: int
    text: int
    key: Tensor


def readings(batch: PairBatch, matches: Collection[Cell], seed: int, epoch: int = 0) -> list[Reading]:
    """Every pair, and every further match."""
    ids, images = batch.caption_id, batch.image_id
    own = [Reading(row, row, sample_keys(seed, epoch, ids[row : row + 1])) for row in range(len(batch))]
    more = [Reading(i, t, sample_keys(seed, epoch, ids[t : t + 1], images[i : i + 1])) for i, t in sorted(matches)]
    return own + more


@torch.no_grad()
def mlm(
    model: AlbefModel,
    batch: PairBatch,
    masker: TokenMasker,
    rows: list[Reading],
    teacher: AlbefModel | None = None,
    alpha: float = 0.0,
) -> float:
    """Mean over all hidden tokens of the cross-entropy, a share alpha of it against the teacher's distribution."""
    losses = []
    for image, text, key in rows:
        mask = batch.attention_mask[text : text + 1]
        ids, labels = masker(batch.input_ids[text : text + 1], mask, key)
        guesses = [_token_log_probabilities(m, batch, image, ids, mask) for m in (model, teacher) if m is not None]
        for place, label in enumerate(labels[0].tolist()):
            if label >= 0:
                loss = -float(guesses[0][place, label])
                if teacher is not None:
                    soft = -float((guesses[1][place].exp() * guesses[0][place]).sum())
                    loss = (1 - alpha) * loss + alpha * soft
                losses.append(loss)
    return sum(losses) / len(losses)


def _token_log_probabilities(model: AlbefModel, batch: PairBatch, image: int, ids: Tensor, mask: Tensor) -> Tensor:
    """Of every word at every place [L, V]."""
    assert batch.pixel_values is not None
    keys_values = model.image_keys_values(model.image_states(batch.pixel_values[image : image + 1]))
    fused = model.fuse(model.text_states(ids, mask), mask, keys_values)
    return model.predict_tokens(fused, torch.ones_like(mask, dtype=torch.bool)).log_softmax(dim=1)
