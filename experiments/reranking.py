"""Does ITM re-ranking gain over similarity of the same model? Test figures of a retrieval run, paired query by query.

    python experiments/reranking.py runs/retrieval-photos_itm

Reads the run's recipe, model, caches and the weights of similarity and ITM that it chose on validation data. Prints
R@1, R@5 and R@10 under the usual protocol (own captions count) of every way of ranking, and how much each gains over
similarity: mean and 95 % interval of the paired difference, photographs resampled with all their captions.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from truepair.cli.arguments import read_recipe
from truepair.data.splits import build_tables
from truepair.evaluation.bootstrap import drawn_rows, percentile_interval
from truepair.evaluation.metrics import RECALL_DEPTHS, rank_queries
from truepair.evaluation.reranking import Combination
from truepair.evaluation.scores import CaptionScores
from truepair.evaluation.truth import Truth
from truepair.methods.caches import StateCaches
from truepair.methods.recipe import PretrainRecipe
from truepair.models.open import open_model
from truepair.relations.pairs import Side
from truepair.tasks.pretraining import HELD_OUT
from truepair.tasks.retrieval import ImageSource, Ranking, RetrievalTask, one_row_a_picture

DIRECTIONS: dict[Side, str] = {"i2t": "captions of a photograph", "t2i": "photographs of a caption"}


def rankings_of(run: Path) -> tuple[dict[str, Ranking], Truth]:
    """Every way of ranking the run's test split, and the truth."""
    recipe = read_recipe(PretrainRecipe, [run / "recipe.yaml"], [], command="reranking")
    trained = open_model(run / "model")
    collator = trained.preprocessing.collator()
    test = build_tables(recipe.data).test
    assert test is not None, "the run had no test split"
    caches = StateCaches(recipe, trained, print)
    test, states = caches.images(one_row_a_picture(test, print))
    task = RetrievalTask(
        collator,
        ImageSource(test, cache=states),
        recipe.evaluation,
        cache=caches.captions,
    )
    chosen = json.loads((run / HELD_OUT).read_text(encoding="utf-8"))["combination"]
    return task.rankings(task.encode(trained.model), Combination(**chosen)), task.truth


def hits(scores: CaptionScores, truth: Truth, way: Side) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Whether each query has an own match in the first places [Q, depths], and its photograph [Q]."""
    queries = truth.naive_queries(way, scores.texts)
    captions = len(truth.own_captions)
    rows, count = (scores.image_rows, truth.images) if way == "i2t" else (scores.caption_rows, captions)
    found = rank_queries(rows, count, [queries], 512)[0].hits.numpy()  # [Q, depths]
    photographs = queries.rows if way == "i2t" else queries.answers.members
    return found, photographs.numpy()


def interval(gains: NDArray[np.float64], photographs: NDArray[np.int64], resamples: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean gain [Q], photographs resampled."""
    sums, counts = np.bincount(photographs, gains), np.bincount(photographs)
    (drawn,) = drawn_rows(len(sums), resamples, seed=0, at_once=resamples * len(sums))
    low, high = percentile_interval(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return float(low), float(high)


def compare() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished retrieval run with ITM")
    ways, truth = rankings_of(parser.parse_args().run)
    table = Table("query", "ranked by", *(f"R@{depth}" for depth in RECALL_DEPTHS), "gain in R@1")
    for direction, name in DIRECTIONS.items():
        base, photographs = hits(ways["similarity"].captions, truth, direction)
        for way, ranking in ways.items():
            found, _ = hits(ranking.captions, truth, direction)
            gains = found[:, 0] - base[:, 0]
            low, high = interval(gains, photographs)
            gain = f"{100 * gains.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})" if way != "similarity" else ""
            table.add_row(name, way, *(f"{100 * value:.1f} %" for value in found.mean(axis=0)), gain)
    Console(width=120).print(table)


if __name__ == "__main__":
    compare()
