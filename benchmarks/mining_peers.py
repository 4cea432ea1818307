"""What mining costs and finds, with and without labels, beside what users would run instead on the same pairs.

    python benchmarks/mining_peers.py                                     # the bundled drawings that are trained on
    python benchmarks/mining_peers.py --split ''                          # all of them
    python benchmarks/mining_peers.py --source pairs.jsonl --split ''     # any pairs with a `group` column, all rows

Something must be hidden: where each row declares all captions of its group, nothing is.

Pictures and captions are encoded before, once for all (EfficientNet-Lite0 and MiniLM, as `truepair mine` does it). Each
side ranks undeclared cells of a picture and a caption, the most suspicious first:

* `truepair`: proposals, signals, and the order of the shipped prior: all that `truepair mine` does behind the encoders.
* `truepair_judge`: all that `truepair mine --judge` does behind them: projection, candidates out of all pairs, and
  refinement. The judge is fitted before, on a fifth of the bundled sample's clean concepts, which count for no side.
* `faiss`: a flat search (`IndexFlatIP`) for the nearest captions of each caption; a cell is a caption and a picture of
  one of its nearest, and its score their cosine.
* `sentence_transformers`: the same of `util.semantic_search`. (`mine_hard_negatives` of that library looks for pairs in
  the same way, and keeps those below a margin, since it wants what does not match.)

One JSON line a side: seconds of CPU time of one thread, the least of its turns; cells; the average precision over all
hidden cells, of which those that a side does not rank count as never found; and of the first 500, 5,000 and 50,000
cells, which share matches by the known truth. Sides take turns in one process.

When this was written, on one of two busy cores of an AMD EPYC, the bundled drawings that are trained on (5,627 rows,
5,624 pictures, 2,877 captions):

  side                    seconds     cells   AP   right of 500   of 5,000   of 50,000
  truepair                    4.2    56,240  .419          .790       .549        .152
  truepair_judge              1.9   113,568  .558         1.000       .735        .138
  faiss                      0.15   365,866  .150          .326       .257        .109
  sentence_transformers      0.35   365,866  .150          .326       .257        .109

And 12,633 drawings (12,524 pictures, 5,273 captions), which `scripts/build_sample.py` makes of nine sets, the bundled
seven, openmoji and emojione-v1, where concepts that two of them drew count (as bundled, six must have):

  side                    seconds     cells   AP   right of 500   of 5,000   of 50,000
  truepair                   10.1   125,240  .259          .436       .459        .257
  truepair_judge              6.6   199,400  .433          .928       .845        .264
  faiss                      0.38   806,089  .116          .282       .310        .144
  sentence_transformers      0.74   806,089  .116          .282       .310        .144

Before words were aligned picture by picture, and signals that captions alone decide were computed once for pictures
with the same ones, `truepair` took 29.9 and 89.5 s; before each pair of vectors was compared once for both of its ends,
spaces were fitted on sums of single products, and neighbours were averaged once for pictures with the same captions,
5.7 and 16.0 s; with the same figures. Of 12,633 drawings, 125,239 of the 125,240 cells were the same before and after
that: a caption of many pictures has more others by now, which 88 cells tell.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import util

from truepair.cli.arguments import find_recipe, read_recipe
from truepair.data.splits import DataConfig, build_tables
from truepair.evaluation.truth import Truth
from truepair.judges.evidence import EvidenceTables
from truepair.methods.recipe import PretrainRecipe
from truepair.mining.gallery import Gallery, Integers
from truepair.mining.graph import Declared
from truepair.mining.mine import MiningConfig, mine_pairs
from truepair.mining.refinement import Refinement
from truepair.mining.signals.encoded import Encoded
from truepair.mining.signals.families import usual_families
from truepair.tasks.encoding import EncodingConfig, encode_gallery
from truepair.tasks.mining import fit_judge, frozen_inputs
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


class Judged:
    """Mining by a judge that was fitted on a fifth of the bundled sample's clean concepts.

    Args:
        data: the pairs that are mined.
        encoded: the same, encoded without a judge.
        folder: takes the judge.
    """

    def __init__(self, data: DataConfig, encoded: Encoded, folder: Path) -> None:
        clean = [*map(find_recipe, ("sample", "clean"))]
        share = ["--data.other_groups", "true", "--data.group_share", "0.2"]
        fitted = read_recipe(PretrainRecipe, clean, share, command="judge")
        self.model = fit_judge(fitted, folder, print)
        self.refinement = Refinement.load(folder)
        self.groups = set(build_tables(fitted.data).train.values("group"))
        """Concepts that it was fitted on."""
        recipe = read_recipe(PretrainRecipe, clean[:1], [], command="mine")
        recipe = replace(recipe, data=replace(data, captions="first", transform=recipe.data.transform))
        inputs = frozen_inputs(recipe, folder, print)
        self.tables, self.declared = EvidenceTables.of_run(inputs), Declared.of_table(inputs.table)
        gallery = encoded.gallery
        if len(inputs.table) != len(gallery.table):
            raise SystemExit("some pictures cannot be read by one of both; drop their rows")
        numbers = {gallery.table.caption_key(text): number for number, text in enumerate(gallery.texts)}
        self.gallery = gallery
        self.captions = np.array([numbers[key] for key in self.declared.caption_keys.tolist()])
        """Number of each row's first caption."""

    def __call__(self, encoded: Encoded) -> Cells:
        """What `truepair mine --judge` does behind the encoders."""
        mined = mine_pairs(self.model, self.refinement, self.tables, self.declared, MiningConfig(low=1e-6))
        order = mined.values.argsort(descending=True, stable=True)
        rows, columns = (part[order].numpy() for part in (mined.rows, mined.columns))
        return undeclared(self.gallery, self.gallery.table.pictures[rows], self.captions[columns])


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
    found = gallery.pictures.some(places.ravel())
    caption, score = found.owners // places.shape[1], scores.ravel()[found.owners]
    picture = found.values
    order = np.argsort(-score, kind="stable")
    return undeclared(gallery, picture[order], caption[order])


def undeclared(gallery: Gallery, pictures: Integers, captions: Integers) -> Cells:
    """Cells, each once, without those that are declared."""
    keys = pictures * len(gallery.texts) + captions
    _, first = np.unique(keys, return_index=True)
    keys = keys[np.sort(first)]
    keys = keys[~np.isin(keys, gallery.declared)]
    return keys // len(gallery.texts), keys % len(gallery.texts)


class Known:
    """What is known of the cells of a gallery.

    Args:
        gallery: its pictures and captions.
        truth: of its table.
        without: concepts whose pictures count for no side.
    """

    def __init__(self, gallery: Gallery, truth: Truth, without: set[str]) -> None:
        self.gallery, self.truth = gallery, truth
        groups = gallery.table.values("group")
        self.counted = np.array([groups[row] not in without for row in gallery.rows.tolist()])  # [N]
        self.keys = np.array([gallery.table.caption_key(text) for text in gallery.texts])  # [M]
        numbers = {key: number for number, key in enumerate(self.keys.tolist())}
        of_text = np.array([numbers.get(gallery.table.caption_key(text), -1) for text in truth.texts])
        rows, texts = truth.true.numpy().T
        there = of_text[texts] >= 0
        true = undeclared(gallery, gallery.table.pictures[rows[there]], of_text[texts[there]])
        self.hidden = int(self.counted[true[0]].sum())
        """How many undeclared cells match."""

    def figures(self, cells: Cells) -> dict[str, float]:
        """The average precision of cells, and which share of the first of them matches, of those that are known."""
        pictures, captions = (part[self.counted[cells[0]]] for part in cells)
        keys = torch.from_numpy(self.keys[captions])
        verdicts = self.truth.verdicts(torch.from_numpy(self.gallery.rows[pictures]), keys)
        right = verdicts[verdicts != "unknown"] == "true"
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        shares = {f"right_of_{depth}": round(float(right[:depth].mean()), 3) for depth in DEPTHS}
        return {"average_precision": round(float(precision[right].sum()) / max(self.hidden, 1), 3), **shares}


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
    if truth is None or "group" not in table.rows.column_names:
        parser.error(f"{args.source} has no group column, so nothing is known of what matches")
    with TemporaryDirectory() as folder:
        judged = Judged(data, encoded, Path(folder))
    known = Known(encoded.gallery, truth, judged.groups)
    sides: dict[str, Callable[[Encoded], Cells]] = {
        "truepair": ours,
        "truepair_judge": judged,
        "faiss": flat,
        "sentence_transformers": semantic,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, Cells] = {}
    for _ in range(args.rounds):
        for name, side in sides.items():
            began = time.process_time()
            found[name] = side(encoded)
            seconds[name].append(time.process_time() - began)
    sizes = {"rows": len(table), "pictures": len(encoded.gallery), "captions": len(encoded.gallery.texts)}
    for name, cells in found.items():
        figures = {"seconds": round(min(seconds[name]), 2), "cells": len(cells[0])}
        print(json.dumps({"side": name, **sizes, **figures, **known.figures(cells)}), flush=True)


if __name__ == "__main__":
    main()
