"""GRIT's order: a walk from sample to most similar sample through each search space."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.relations.similarity import similarities
from truepair.sampling.hardness import Hardness
from truepair.sampling.known import KnownMatches
from truepair.sampling.plan import Indices
from truepair.sampling.ranks import Ranks
from truepair.sampling.spaces import share_spaces


@torch.no_grad()
def grit_order(
    image: Tensor,
    text: Tensor,
    *,
    start: Tensor | int | None = None,
    generator: torch.Generator | None = None,
    quantile: Tensor | float = 1.0,
    forbidden: Tensor | None = None,
    batch_size: int | None = None,
    at_once: int | None = None,
) -> Tensor:
    """Order each search space by an alternating nearest-neighbour walk.

    From the image of a sample the walk goes to the most similar text of the samples not yet used, from that text to the
    most similar image left, and so on (GRIT-VLP, arXiv 2208.04060). Similarity is the plain cosine: a softmax over a
    row would not change its order. The result is a permutation for any input; features that are not finite count as
    zeros. Walks go in lock-step on the device of the features and wait for the host at no step.

    Args:
        image: L2-normalised image features, floating point [S, M, D] for S search spaces, or [M, D] for one; of a model
            with queries [S, M, Q, D] or [M, Q, D], whose similarity to a text is that of the best query.
        text: L2-normalised features of their captions [S, M, D] or [M, D].
        start: Where each walk starts, integers [S] from 0 to M - 1, or one for all.
        generator: Draws the starts that are not given. Without either, each walk starts at sample 0.
        quantile: Hardness of the step away from each sample, from 0 to 1: one number, or [S, M] (or [M]) for one per
            sample. 1 takes the most similar candidate (GRIT), 0 the least similar, 0.5 the median.
        forbidden: True where two samples should not share a batch, bool [S, M, M] or [M, M], symmetric. A forbidden
            candidate is taken only when no other is left.
        batch_size: Length of the slices of the order that become batches; needed with ``forbidden``.
        at_once: Search spaces that walk in lock-step, each with ``8 * M * M`` bytes of similarities. By default 32, but
            on the CPU 1, or 4 with ``quantile`` or ``forbidden``: more gain nothing there.

    Returns:
        Positions in walking order, int64 [S, M] or [M]; each row is a permutation of 0 .. M - 1.

    Raises:
        ValueError: The shapes do not fit, a start or quantile is out of range, or ``forbidden`` lacks ``batch_size``.
    """
    _check(image, text, forbidden, batch_size)
    shape = text.shape[:-1]  # [S, M] or [M]
    if not shape.numel():
        return torch.empty(shape, dtype=torch.int64, device=image.device)
    if text.dim() == 2:
        image, text = image[None], text[None]
    spaces, samples, _ = text.shape
    starts = _starts(start, generator, spaces, samples).to(image.device)
    quantiles = _quantiles(quantile, spaces, samples, image.device)
    blocks = None if forbidden is None else forbidden.view(spaces, samples, samples)
    plain = image.device.type == "cpu" and quantiles is None and blocks is None
    at_once = min(spaces, at_once or (1 if plain else 4 if image.device.type == "cpu" else 32))
    # Kept over the chunks: the first touch of fresh memory costs as much as the product itself.
    tables = image.new_empty(2, at_once, samples, samples, dtype=_wide(image.dtype))
    orders = []
    for chunk in (slice(first, first + at_once) for first in range(0, spaces, at_once)):
        table = _fill(tables, image[chunk], text[chunk])
        if plain and at_once == 1:
            orders.append(_walk_alone(table[:, 0].numpy(), int(starts[chunk])))
        else:
            walk = _Walk(table, _part(quantiles, chunk), _part(blocks, chunk), batch_size or samples)
            orders.append(walk.run(starts[chunk]))
    return torch.cat(orders).view(shape)


def _check(image: Tensor, text: Tensor, forbidden: Tensor | None, batch_size: int | None) -> None:
    queries = image.shape[text.dim() - 1 : -1]  # [] or [Q]
    alike = image.shape[: text.dim() - 1] + image.shape[-1:] == text.shape
    if not alike or len(queries) > 1 or text.dim() not in (2, 3):
        raise ValueError(
            f"image {tuple(image.shape)} and text {tuple(text.shape)} must both be [S, M, D] or [M, D]; an image may "
            "have queries, [S, M, Q, D] or [M, Q, D]."
        )
    if forbidden is not None and not batch_size:
        raise ValueError("forbidden needs batch_size: it keeps samples out of one batch.")


def _part(tensor: Tensor | None, chunk: slice) -> Tensor | None:
    return None if tensor is None else tensor[chunk]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """A type exact enough for cosines: half precision has too many ties."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _finite(features: Tensor, dtype: torch.dtype) -> Tensor:
    """The features without NaN and infinity, which would keep the walk from being a permutation."""
    return torch.nan_to_num(features.to(dtype), nan=0.0, posinf=0.0, neginf=0.0)


def _starts(start: Tensor | int | None, generator: torch.Generator | None, spaces: int, samples: int) -> Tensor:
    """The first sample of each walk, int64 [S]."""
    if start is None:
        if generator is None:
            return torch.zeros(spaces, dtype=torch.int64)
        return torch.randint(samples, (spaces,), generator=generator, device=generator.device)
    starts = torch.as_tensor(start, dtype=torch.int64).expand(spaces)
    if not bool(((starts >= 0) & (starts < samples)).all()):
        raise ValueError(f"start must lie from 0 to {samples - 1}, the samples of a search space.")
    return starts


def _quantiles(quantile: Tensor | float, spaces: int, samples: int, device: torch.device) -> Tensor | None:
    """The hardness of each sample, float32 [S, M]; None if all take the most similar."""
    if not isinstance(quantile, Tensor) and quantile == 1:
        return None
    quantiles = torch.as_tensor(quantile, dtype=torch.float32, device=device).expand(spaces, samples)
    if not bool(((quantiles >= 0) & (quantiles <= 1)).all()):
        raise ValueError("quantile must lie from 0 (least similar) to 1 (most similar).")
    return quantiles


def _fill(tables: Tensor, image: Tensor, text: Tensor) -> Tensor:
    """Write the cosines of images with texts, and of texts with images, into the first S of ``tables`` [2, >= S, M, M].

    One product a search space, so that a result does not depend on how many spaces share a call. The transposed copy
    costs a fifth of a second product, and to read columns instead would cost more than both.
    """
    for space in range(len(image)):
        pair = [_finite(features[space], tables.dtype) for features in (image, text)]
        if pair[0].dim() == 2:
            torch.mm(pair[0], pair[1].T, out=tables[0, space])
        else:
            tables[0, space] = similarities(pair[0], pair[1])
        tables[1, space].copy_(tables[0, space].T)
    return tables[:, : len(image)]


def _walk_alone(tables: NDArray[Any], start: int) -> Tensor:
    """Walk one search space [2, M, M] on the CPU, where lock-step gains nothing; returns the order [1, M].

    With many spaces in lock-step the similarities leave the cache, which costs more than the calls that are saved.
    """
    used = np.zeros(tables.shape[1], tables.dtype)  # [M]: 0, and -inf for used samples
    scores = np.empty_like(used)
    order = np.empty(len(used), np.int64)
    order[0] = current = start
    for place in range(1, len(order)):
        used[current] = -np.inf
        np.add(tables[(place - 1) % 2, current], used, out=scores)
        current = int(scores.argmax())
        order[place] = current
    return torch.from_numpy(order)[None]


class _Walk:
    """The state of walks that go in lock-step over S search spaces of M samples.

    Its arrays are NumPy's on the CPU and tensors elsewhere, and a step keeps to what both understand: on the CPU a step
    of NumPy takes a third of the time, because its argmax is vectorised and its calls are light.
    """

    def __init__(self, tables: Tensor, quantiles: Tensor | None, forbidden: Tensor | None, batch_size: int) -> None:
        spaces, samples = tables.shape[1:3]
        self.batch_size = batch_size
        self.tables = _native(tables)  # [2, S, M, M]
        self.quantiles = None if quantiles is None else _native(quantiles)  # [S, M]
        self.forbidden = None if forbidden is None else _native(forbidden)  # [S, M, M]
        self.space = _native(torch.arange(spaces, device=tables.device))  # [S]
        self.used = _native(tables.new_zeros(spaces, samples))  # [S, M]: 0, and -inf for used samples
        self.blocked = _native(torch.zeros_like(tables[0, :, 0], dtype=torch.bool))  # [S, M]: not in this batch

    def run(self, start: Tensor) -> Tensor:
        """Walk from the given samples [S] until all are used; returns the order [S, M]."""
        current = _native(start)
        steps = [current]
        for place in range(1, self.used.shape[1]):
            self._retire(current, starts_batch=place % self.batch_size == 0)
            current = self._next(current, self.tables[(place - 1) % 2])
            steps.append(current)
        return torch.stack([torch.as_tensor(step) for step in steps], dim=1)

    def _retire(self, current: Any, *, starts_batch: bool) -> None:
        """Never return to these samples [S]; keep what they forbid out of the rest of their batch."""
        self.used[self.space, current] = -math.inf
        if self.forbidden is None:
            return
        if starts_batch:
            self.blocked[:] = False
        else:
            self.blocked |= self.forbidden[self.space, current]

    def _next(self, current: Any, table: Any) -> Any:
        """The samples [S] to go to, by one table of cosines [S, M, M]."""
        scores = table[self.space, current]  # [S, M], a copy
        scores += self.used
        if self.forbidden is not None:
            scores[self._avoided()] = -math.inf
        if self.quantiles is None:
            return scores.argmax(1)
        candidates = (scores > -math.inf).sum(1)  # [S]
        rank = _rank(1 - self.quantiles[self.space, current], candidates)  # [S]
        value = _ascending(scores)[self.space, -1 - rank]
        return abs(scores - value[:, None]).argmin(1)

    def _avoided(self) -> Any:
        """Samples that must not come next, bool [S, M]: the blocked ones, unless no other is left."""
        free = (self.used == 0) & ~self.blocked
        return self.blocked & free.any(1)[:, None]


def _native(tensor: Tensor) -> Any:
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def _rank(ease: Any, candidates: Any) -> Any:
    """How far from the most similar candidate to go, int64 [S], for 1 - quantile [S] and numbers of candidates [S]."""
    if isinstance(ease, np.ndarray):
        return (ease * (candidates - 1).astype(ease.dtype)).round().astype(np.int64)
    return (ease * (candidates - 1)).round().long()


def _ascending(scores: Any) -> Any:
    return np.sort(scores, axis=1) if isinstance(scores, np.ndarray) else scores.sort(dim=1).values


def walk_spaces(
    spaces: Sequence[Indices],
    starts: Sequence[int],
    image: Tensor,
    text: Tensor,
    *,
    samples: Indices,
    group_size: int,
    hardness: Hardness,
    epoch: int,
    known: KnownMatches | None = None,
    ranks: Ranks | None = None,
) -> list[Indices]:
    """Bring each search space of a window into walking order.

    Args:
        spaces: Positions in the window, int64 [M] each.
        starts: Where each walk starts: a place within its search space.
        image: Normalised image features of the window [n, D].
        text: Normalised text features of the window [n, D].
        samples: What ``known`` and ``hardness`` call the samples of the window, int64 [n].
        group_size: Length of the slices of a walk that become groups.
        hardness: The dial.
        epoch: Epoch that is planned.
        known: Matches to keep out of a group.
        ranks: Ranks that hold the same window and share the work: each space is walked by one of them.

    Returns:
        The positions of each space in walking order, int64 [M] each; the same on every rank.
    """

    def order(numbers: Sequence[int]) -> dict[int, Indices]:
        """The walks of some spaces, those of one size in lock-step."""
        walks: dict[int, Indices] = {}
        for size in sorted({len(spaces[number]) for number in numbers}):
            members = [number for number in numbers if len(spaces[number]) == size]
            positions = np.stack([spaces[number] for number in members])  # [S, M]
            where = torch.from_numpy(positions).to(image.device)
            images, texts = image[where], text[where]  # [S, M, D] each
            walk = grit_order(
                images,
                texts,
                start=torch.tensor([starts[number] for number in members]),
                quantile=hardness(images, texts, epoch, samples[positions]),
                forbidden=None if known is None else _forbidden(known, samples[positions]).to(image.device),
                batch_size=group_size,
            )
            walked = torch.from_numpy(positions).gather(1, walk.cpu()).numpy()
            walks |= zip(members, walked, strict=True)
        return walks

    return share_spaces(spaces, ranks or Ranks(), order)


def _forbidden(known: KnownMatches, samples: Indices) -> Tensor:
    """The matches within each search space, bool [S, M, M], of samples [S, M]."""
    return torch.from_numpy(np.stack([known.matrix(row) for row in samples]))
