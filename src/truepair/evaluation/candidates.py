"""Which (image, caption) pairs a re-ranker reads, and reading each of them once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.errors import ConfigError, DataError
from truepair.evaluation.scores import ScoreSource

PairScorer = Callable[[Tensor, Tensor], Tensor]
"""Scores of pairs: (image numbers [P], caption numbers [P]) -> [P]. Images come sorted: equal ones stand together."""


@dataclass(frozen=True)
class CandidatePairs:
    """The pairs that similarity search proposes in either direction, each once, sorted by image, then caption.

    Attributes:
        images: int64 [P].
        captions: int64 [P].
        similarity: [P], the search's own score.
        for_image: bool [P]; the caption is among the image's top k.
        for_caption: bool [P]; the image is among the caption's top k.
    """

    images: Tensor
    captions: Tensor
    similarity: Tensor
    for_image: Tensor
    for_caption: Tensor

    def __len__(self) -> int:
        return len(self.images)


def find_candidates(
    similarity: ScoreSource, images: int, captions: int, k: int, *, block_size: int = 512
) -> CandidatePairs:
    """Top-k search in both directions.

    Among equal similarities at the k-th place the choice is arbitrary but the same in every run.

    Args:
        similarity: scores of all pairs, in slices.
        images: number of images I.
        captions: number of captions T.
        k: candidates a query; a gallery smaller than k is taken whole.
        block_size: rows of scores read at once.

    Raises:
        ConfigError: if k is not positive.
    """
    if k < 1:
        raise ConfigError(f"re-ranking needs at least one candidate a query, got k = {k}")
    row, column, row_value = _top_k(similarity.image_rows, images, min(k, captions), block_size)
    by_image = row * captions + column
    row, column, column_value = _top_k(similarity.caption_rows, captions, min(k, images), block_size)
    by_caption = column * captions + row
    keys, place = torch.cat([by_image, by_caption]).unique(return_inverse=True)  # [P], [wanted]
    score = row_value.new_empty(len(keys)).scatter_(0, place, torch.cat([row_value, column_value]))
    return CandidatePairs(
        images=keys // captions,
        captions=keys % captions,
        similarity=score,
        for_image=torch.isin(keys, by_image),
        for_caption=torch.isin(keys, by_caption),
    )


def _top_k(rows: Callable[[int, int], Tensor], count: int, k: int, block_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's k best columns as (row, column, score), each [count * k]."""
    tops = [
        rows(start, min(start + block_size, count)).detach().topk(k, dim=1) for start in range(0, count, block_size)
    ]
    row = torch.arange(count).repeat_interleave(k)
    return (
        row,
        torch.cat([t.indices.flatten().cpu() for t in tops]),
        torch.cat([t.values.flatten().cpu() for t in tops]),
    )


def score_candidates(candidates: CandidatePairs, score_pairs: PairScorer, *, chunk_size: int = 1024) -> Tensor:
    """Score each candidate pair once, image by image.

    A chunk ends between two images unless one image alone has more than ``chunk_size`` candidates, so the scorer can
    compute each image's keys and values once.

    Args:
        candidates: the pairs.
        score_pairs: the judge. It should return log-odds rather than probabilities, which round to 1 for sure
            pairs, and so tie.
        chunk_size: pairs passed at once.

    Returns:
        Scores [P] on the CPU.

    Raises:
        DataError: if the judge returns the wrong number of scores, or NaN.
    """
    scores = []
    start = 0
    while start < len(candidates):
        stop = _chunk_end(candidates.images, start, chunk_size)
        part = score_pairs(candidates.images[start:stop], candidates.captions[start:stop]).detach().cpu()
        if part.shape != (stop - start,):
            raise DataError(f"the pair scorer returned {tuple(part.shape)} scores for {stop - start} pairs")
        if part.isnan().any():
            raise DataError(f"the pair scorer returned NaN for pairs {start} to {stop - 1}; check the model's weights")
        scores.append(part)
        start = stop
    return torch.cat(scores) if scores else torch.empty(0)


def _chunk_end(images: Tensor, start: int, chunk_size: int) -> int:
    """End of the chunk that begins at ``start``: the last border between images that keeps it small enough."""
    stop = start + chunk_size
    if stop >= len(images):
        return len(images)
    border = int(torch.searchsorted(images, images[stop]))
    return border if border > start else stop
