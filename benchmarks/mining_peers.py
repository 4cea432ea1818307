"""What mining without labels costs and finds, beside what users would run instead on the same features.

    python benchmarks/mining_peers.py                                     # the bundled drawings that are trained on
    python benchmarks/mining_peers.py --source pairs.jsonl --split ''     # any pairs with a `group` column, all rows

Something must be hidden: where each row declares all captions of its group, nothing is.

Pictures and captions are encoded before, once for all (EfficientNet-Lite0 and MiniLM, as `truepair mine` does it). Each
side ranks undeclared cells of a picture and a caption, the most suspicious first:

* `truepair`: proposals, signals, and the order of the shipped prior: all that `truepair mine` does behind the encoders.
* `faiss`: a flat search (`IndexFlatIP`) for the nearest captions of each caption; a cell is a caption and a picture of
  one of its nearest, and its score their cosine.
* `sentence_transformers`: the same of `util.semantic_search`. (`mine_hard_negatives` of that library looks for pairs in
  the same way, and keeps those below a margin, since it wants what does not match.)

One JSON line a side: seconds of CPU time of one thread, the least of its turns; cells; and of the first 500, 5,000 and
50,000 of them, which share matches by the known truth. Sides take turns in one process.

When this was written, on one of two busy cores of an AMD EPYC, the bundled drawings (5,624 pictures, 2,877 captions):

  side                    seconds     cells  right of 500   of 5,000   of 50,000
  truepair                   30.5    56,240          .792       .569        .163
  faiss                      0.22   365,866          .344       .257        .115
  sentence_transformers      0.41   365,866          .344       .257        .115

A flat search is a hundred times cheaper, and right less than half as often where people look first.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import util

from truepair.data.splits import DataConfig, build_tables
from truepair.evaluation.truth import Truth
from truepair.mining.gallery import Gallery, Integers
from truepair.mining.signals.encoded import Encoded
from truepair.mining.signals.families import usual_families
from truepair.tasks.encoding import EncodingConfig, encode_gallery
from truepair.tasks.unlabelled import mine_gallery

NEIGHBOURS = 64

DEPTHS = (500, 5_000, 50_000)

Cells = tuple[Integers, Integers]  # pictures and captions, the most suspicious first


def ours(encoded: Encoded) -> Cells:
    """What `truepair mine` does behind the encoders; nothing that an earlier turn derived is kept."""
    encoded = replace(encoded)
    families, _ = usual_families(encoded)
    found, _ = mine_gallery(encoded, families, None, lambda line: None)
    return found.pictures, found.captions


def flat(encoded: Encoded) -> Cells:
    """A flat search of faiss."""
    vectors = encoded.captions.numpy()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    scores, places = index.search(vectors, min(NEIGHBOURS + 1, len(vectors)))
    return cells_of(encoded.gallery, places, scores)


def semantic(encoded: Encoded) -> Cells:
    """A search of sentence-transformers."""
    hits = util.semantic_search(encoded.captions, encoded.captions, top_k=NEIGHBOURS + 1)
    places = np.array([[hit["corpus_id"] for hit in row] for row in hits], np.int64)
    return cells_of(encoded.gallery, places, np.array([[hit["score"] for hit in row] for row in hits], np.float32))


def cells_of(gallery: Gallery, places: Integers, scores: NDArray[np.float32]) -> Cells:
    """Undeclared cells of captions and the pictures of their neighbours [M, n], by the scores of these."""
    captions = np.broadcast_to(np.arange(len(places))[:, None], places.shape)
    lists = gallery.pictures
    counts = lists.counts[places]
    caption, score = np.repeat(captions, counts.ravel()), np.repeat(scores, counts.ravel())
    firsts = np.repeat(np.cumsum(counts.ravel()) - counts.ravel(), counts.ravel())
    picture = lists.values[np.repeat(lists.starts[places].ravel(), counts.ravel()) + np.arange(len(caption)) - firsts]
    order = np.argsort(-score, kind="stable")
    keys = picture[order] * len(gallery.texts) + caption[order]
    _, first = np.unique(keys, return_index=True)
    keys = keys[np.sort(first)]
    keys = keys[~np.isin(keys, gallery.declared)]
    return keys // len(gallery.texts), keys % len(gallery.texts)


def right_of(encoded: Encoded, truth: Truth, cells: Cells) -> dict[str, float]:
    """Which share of the first cells match, of those whose truth is known."""
    table, (pictures, captions) = encoded.gallery.table, cells
    keys = np.array([table.caption_key(text) for text in encoded.gallery.texts])
    rows = torch.from_numpy(encoded.gallery.rows[pictures[: DEPTHS[-1]]])
    verdicts = truth.verdicts(rows, torch.from_numpy(keys[captions[: DEPTHS[-1]]]))
    shares = {}
    for depth in DEPTHS:
        known = verdicts[:depth][verdicts[:depth] != "unknown"]
        shares[f"right_of_{depth}"] = round(float((known == "true").mean()), 3) if len(known) else 0.0
    return shares


SIDES: dict[str, Callable[[Encoded], Cells]] = {"truepair": ours, "faiss": flat, "sentence_transformers": semantic}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="sample", help="pairs with a group column")
    parser.add_argument("--split", default="train", help="rows that are mined; '' for all")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    data = DataConfig(sources=[args.source], train_split=args.split, validation_split="", test_split="")
    table = build_tables(data).train
    encoded = encode_gallery(table, EncodingConfig(workers=0), print)
    truth = Truth.from_table(encoded.gallery.table)
    if truth is None:
        parser.error(f"{args.source} has no group column, so nothing is known of what matches")
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    found: dict[str, Cells] = {}
    for _ in range(args.rounds):
        for name, side in SIDES.items():
            began = time.process_time()
            found[name] = side(encoded)
            seconds[name].append(time.process_time() - began)
    sizes = {"pictures": len(encoded.gallery), "captions": len(encoded.gallery.texts)}
    for name, cells in found.items():
        figures = {"seconds": round(min(seconds[name]), 2), "cells": len(cells[0])}
        print(json.dumps({"side": name, **sizes, **figures, **right_of(encoded, truth, cells)}), flush=True)


if __name__ == "__main__":
    main()
