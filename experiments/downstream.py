"""VQA and NLVR2 on the bundled drawings: does pre-training help? Each task from a checkpoint and from fresh heads.

    python experiments/downstream.py --checkpoint runs/sample/model --seeds 3

From fresh heads means ``model.fresh``: the two frozen encoders of the checkpoint, and random weights in all that reads
both. Runs that are there, in ``runs/downstream``, are not repeated; one that was stopped goes on. Prints mean and
spread (standard deviation) over the seeds, beside who does not look.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from truepair.cli.main import main

STARTS = {"pre-trained": "false", "from scratch": "true"}

FIGURES: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
    "vqa": lambda result: {who: one["overall"] for who, one in result["accuracies"].items()},
    "nlvr2": lambda result: {who: one["accuracy"] for who, one in result["metrics"].items()},
}
"""By task: accuracy by who answers, of the JSON file that a run leaves."""


def run(task: str, start: str, seed: int, arguments: argparse.Namespace, options: list[str]) -> dict[str, float]:
    """One run, or what it left."""
    folder = Path(arguments.runs) / f"{task}-{start.replace(' ', '-')}-{seed}"
    if not (folder / f"{task}.json").is_file():
        words = ["--model.checkpoint", arguments.checkpoint, "--model.fresh", STARTS[start], "--loop.seed", str(seed)]
        data = ["--data.sample", f"{arguments.runs}/data/{task}"]
        main(["finetune", task, "sample", "--run-folder", str(folder), *words, *data, *options])
    return FIGURES[task](json.loads((folder / f"{task}.json").read_text(encoding="utf-8")))


def spread(values: list[float]) -> str:
    """Mean and standard deviation, in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * deviation:.1f} %"


def compare() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="model folder of a pre-training run on the sample")
    parser.add_argument("--runs", default="runs/downstream", help="where runs and data go")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=list(FIGURES), choices=list(FIGURES))
    arguments, options = parser.parse_known_args()
    table = Table("task", *STARTS, "text alone", "majority")
    for task in arguments.tasks:
        by_start = {
            start: [run(task, start, seed, arguments, options) for seed in range(arguments.seeds)] for start in STARTS
        }
        baselines = by_start["pre-trained"][0]
        models = [spread([one["model"] for one in results]) for results in by_start.values()]
        table.add_row(task, *models, *(f"{100 * baselines[who]:.1f} %" for who in ("text alone", "majority")))
    Console().print(table)


if __name__ == "__main__":
    compare()
