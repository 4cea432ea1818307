"""What the runs of a study found, as rows of two tables: results, and curves over training."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.engine.logs.log import read_log
from truepair.files import writing_file
from truepair.tasks.pretraining import HELD_OUT, UNSEEN
from truepair.tasks.study.cells import StudyRun
from truepair.tasks.study.table import FORMER_NAMES

TEST_FILES = {"held_out": HELD_OUT, "unseen": UNSEEN}
"""Name of each test -> the file of a run that holds its figures."""

LAST_EPOCH_FIGURES = {
    "conversion_precision": ("epoch", "ecm/conversion_precision", 100.0),
    "conversion_recall": ("epoch", "ecm/conversion_recall", 100.0),
    "false_negative_rate": ("epoch", "false_negative_rate", 100.0),
    "hardest_is_false": ("step", "hardest_is_false", 100.0),
    "mi_positive": ("step", "mi_positive", 1.0),
    "mi_negative": ("step", "mi_negative", 1.0),
    "mi_false_negative": ("step", "mi_false_negative", 1.0),
    "weight_below_07": ("step", "srcl_below_0.7", 100.0),
    "weight_of_false_negatives": ("step", "srcl_false_negatives", 1.0),
}
"""Figure -> kind of record, name in it, factor: from the last epoch of a run's log."""

RETRIEVAL_FIGURES = {"r1": "recall_at_1", "r5": "recall_at_5", "r10": "recall_at_10", "map_r": "map_at_r"}
"""Figure of each direction, after ``i2t_`` or ``t2i_`` -> its name in a run's ``retrieval.json``."""

RESULT_FIGURES = (
    *(f"{side}_{figure}" for side in ("i2t", "t2i") for figure in RETRIEVAL_FIGURES),
    "retrieval_score",
    "naive",
    "itm_retrieval_score",
    *LAST_EPOCH_FIGURES,
)

RESULT_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("study", "arm", "data")),
        *((name, pa.int64()) for name in ("data_seed", "seed")),
        ("test", pa.string()),
        ("seconds", pa.float64()),
        ("pairs", pa.int64()),
        *((name, pa.float64()) for name in RESULT_FIGURES),
    ]
)

CURVE_NAMES = (
    "hardest_is_false",
    "false_negative_rate",
    "random_false_negative_rate",
    "mi_positive",
    "mi_negative",
    "mi_false_negative",
    "srcl_below_0.7",
    "srcl_false_negatives",
    "ecm/conversion_precision",
    "ecm/conversion_recall",
    "hardness_quantile",
)
"""Names in a run's log that become curves, beside the bins of ``srcl_weights/``."""

_CURVE_SCHEMA = pa.schema(
    [*list(RESULT_SCHEMA)[:5], ("epoch", pa.int64()), ("name", pa.string()), ("value", pa.float64())]
)

_Row = dict[str, Any]


def figures_of(folder: Path) -> dict[str, dict[str, float]]:
    """Figures of a finished run by test: retrieval in per cent, and what the last epoch of its log says."""
    last_epoch = _last_epoch(read_log(folder / "log.jsonl"))
    by_test = {}
    for test, name in TEST_FILES.items():
        if (folder / name).exists():
            ways = json.loads((folder / name).read_text(encoding="utf-8"))["ways"]
            figures = _retrieval(ways["similarity"])
            if "ITM" in ways:
                figures["itm_retrieval_score"] = _retrieval(list(ways.values())[-1])["retrieval_score"]
            by_test[test] = figures | last_epoch
    return by_test


def gather_results(study: str, runs: Iterable[StudyRun], folder: Path) -> int:
    """Write ``results.parquet`` and ``curves.parquet``.

    Args:
        study: its name.
        runs: cells that are done.
        folder: of the study.

    Returns:
        Rows of the results.
    """
    rows: list[_Row] = []
    curves: list[_Row] = []
    for run in runs:
        keys = {"study": study, "arm": run.arm, "data": run.data, "data_seed": run.data_seed, "seed": run.seed}
        result = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
        for test, stored in result["figures"].items():
            figures = {FORMER_NAMES.get(name, name): value for name, value in stored.items()}
            rows.append({**keys, "test": test, "seconds": result["seconds"], "pairs": result["pairs"], **figures})
        curves += [{**keys, **point} for point in _curves(read_log(run.folder / "log.jsonl"))]
    for name, content, schema in (("results", rows, RESULT_SCHEMA), ("curves", curves, _CURVE_SCHEMA)):
        with writing_file(folder / f"{name}.parquet") as file:
            pq.write_table(pa.Table.from_pylist(content, schema), file)
    return len(rows)


def _retrieval(metrics: Mapping[str, Any]) -> dict[str, float]:
    """One way of ranking, in per cent."""
    figures = {
        f"{side}_{short}": 100.0 * metrics[side][name]["value"]
        for side in ("i2t", "t2i")
        for short, name in RETRIEVAL_FIGURES.items()
    }
    score = statistics.fmean(figures[name] for name in ("i2t_r1", "i2t_map_r", "t2i_r1", "t2i_map_r"))
    naive = statistics.fmean(100.0 * metrics[f"naive_{side}"]["recall_at_1"]["value"] for side in ("i2t", "t2i"))
    return {**figures, "retrieval_score": score, "naive": naive}


def _last_epoch(records: list[dict[str, Any]]) -> dict[str, float]:
    """Means over the records of the last epoch that has any."""
    figures = {}
    for figure, (kind, name, factor) in LAST_EPOCH_FIGURES.items():
        values = [(record["epoch"], record[name]) for record in records if record["kind"] == kind and name in record]
        if values:
            last = max(epoch for epoch, _ in values)
            figures[figure] = factor * statistics.fmean(value for epoch, value in values if epoch == last)
    return figures


def _curves(records: list[dict[str, Any]]) -> Iterator[_Row]:
    """Every number by epoch, counted from 1; numbers of steps are averaged over the epoch."""
    by_epoch: dict[tuple[int, str], list[float]] = defaultdict(list)
    for record in records:
        for name, value in record.items():
            if name in CURVE_NAMES or name.startswith("srcl_weights/"):
                by_epoch[record["epoch"] + 1, name].append(float(value))
    for (epoch, name), values in by_epoch.items():
        yield {"epoch": epoch, "name": name, "value": statistics.fmean(values)}
