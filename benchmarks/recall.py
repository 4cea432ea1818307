"""Recall over a matrix of scores: ranks by counting, against sorting every row.

    python benchmarks/recall.py                         # 1,000 images, 5,000 captions, both directions

Sorting is how the official programs do it: argsort each image's row and each caption's column, then look up where the
right ones came. Ours is `rank_queries`, which counts how many wrong candidates score at least as much as the best right
one, and also yields mAP@R and R-Precision. The two take turns in one process, and are timed in seconds of CPU time. One
JSON line a round, and one for the median and range of the ratio.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.evaluation.metrics import rank_queries
from truepair.evaluation.scores import MatrixScores
from truepair.evaluation.truth import Truth

CAPTIONS_PER_IMAGE = 5


def sorting(scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranks from 1 of each image's best own caption, and of each caption's image."""
    images, captions = scores.shape
    image_ranks = np.zeros(images, dtype=np.int64)
    for image, row in enumerate(scores):
        order = np.argsort(row)[::-1]
        own = range(CAPTIONS_PER_IMAGE * image, CAPTIONS_PER_IMAGE * (image + 1))
        image_ranks[image] = 1 + min(np.where(order == caption)[0][0] for caption in own)
    caption_ranks = np.zeros(captions, dtype=np.int64)
    for caption, column in enumerate(scores.T):
        order = np.argsort(column)[::-1]
        caption_ranks[caption] = 1 + np.where(order == caption // CAPTIONS_PER_IMAGE)[0][0]
    return image_ranks, caption_ranks


def counting(scores: Tensor, truth: Truth) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same ranks by the library."""
    source = MatrixScores(scores)
    by_image = rank_queries(source.image_rows, truth.images, [truth.queries("i2t")], block_size=512)[0]
    by_caption = rank_queries(source.caption_rows, truth.captions, [truth.queries("t2i")], block_size=512)[0]
    return by_image.best_rank.numpy(), by_caption.best_rank.numpy()


def timed(
    work: Callable[[], tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="images; each has five captions")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    captions = CAPTIONS_PER_IMAGE * arguments.images
    image = torch.arange(captions) // CAPTIONS_PER_IMAGE
    truth = Truth(arguments.images, captions, torch.stack([image, torch.arange(captions)], dim=1))
    generator = torch.Generator().manual_seed(0)
    ratios = []
    for number in range(arguments.rounds + 1):  # the first round warms up
        scores = torch.randn(arguments.images, captions, generator=generator)
        scores[image, torch.arange(captions)] += 2  # as good as a middling model
        slow, slow_seconds = timed(lambda s=scores: sorting(s.numpy()))
        fast, fast_seconds = timed(lambda s=scores: counting(s, truth))
        assert all(np.array_equal(a, b) for a, b in zip(slow, fast, strict=True)), "ranks differ"
        if not number:
            continue
        ratios.append(slow_seconds / fast_seconds)
        row = {"round": number, "sorting": round(slow_seconds, 3), "counting": round(fast_seconds, 3)}
        print(json.dumps({**row, "ratio": round(ratios[-1], 2)}), flush=True)
    low, median, high = min(ratios), statistics.median(ratios), max(ratios)
    summary = {"images": arguments.images, "captions": captions, "rounds": arguments.rounds, "identical_ranks": True}
    print(json.dumps({**summary, "median_ratio": round(median, 2), "range": [round(low, 2), round(high, 2)]}))


if __name__ == "__main__":
    main()
