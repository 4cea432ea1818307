"""Tables for the terminal."""

from collections.abc import Sequence

from rich.table import Table

from truepair.evaluation.metrics import DirectionMetrics, RetrievalMetrics
from truepair.evaluation.suspects import SuspectPrecision
from truepair.tasks.retrieval import RetrievalResult


def retrieval_table(result: RetrievalResult) -> Table:
    """Truth-aware figures beside the naive ones, for every way of ranking."""
    table = Table(title=f"Retrieval: {result.images} pictures, {result.captions} captions", title_justify="left")
    table.add_column("ranking by")
    table.add_column("query")
    for name in ("R@1", "R@5", "R@10", "mAP@R", "naive R@1"):
        table.add_column(name, justify="right", no_wrap=True)
    for way, metrics in result.ways.items():
        for name, direction, naive in _directions(metrics):
            figures = (direction.recall_at_1, direction.recall_at_5, direction.recall_at_10, direction.map_at_r)
            table.add_row(way, name, *(f"{figure.value:.1%}" for figure in (*figures, naive.recall_at_1)))
        table.add_section()
    return table


def _directions(metrics: RetrievalMetrics) -> list[tuple[str, DirectionMetrics, DirectionMetrics]]:
    return [
        ("picture", metrics.i2t, metrics.naive_i2t),
        ("caption", metrics.t2i, metrics.naive_t2i),
    ]


def precision_table(precision: Sequence[SuspectPrecision]) -> Table:
    """How many of the strongest suspected false negatives are true matches."""
    table = Table(title="Suspected false negatives of the training set, ranked by ITM", title_justify="left")
    for name in ("first", "judged", "truly match", "precision"):
        table.add_column(name, justify="right")
    for found in precision:
        value = "unknown" if found.value is None else f"{found.value:.1%}"
        table.add_row(str(found.depth), str(found.judged), str(found.true), value)
    return table
