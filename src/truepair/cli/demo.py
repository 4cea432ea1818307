"""``truepair demo``: trains a small model on the bundled pairs, prints figures, writes the page of what it found."""

import shlex
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from truepair.cli.arguments import read_recipe, to_yaml
from truepair.cli.recipes import find_recipe, take_flag, take_option

HELP = """usage: truepair demo [--full] [--data PAIRS] [--run-folder FOLDER] [--any.field value ...]

Trains a small ALBEF (ITC + ITM + MLM) on the bundled drawings in minutes on two cores, prints its retrieval figures,
and writes FOLDER/report.html (runs/demo/report.html) with curves, examples and the strongest suspected false negatives.

  --full         all concepts of the sample, not only those with the most drawings
  --data PAIRS   your own pairs (any format of `truepair pretrain`), with train and test splits
  --run-folder   where everything goes; an interrupted demo goes on from there

It needs the small pre-trained encoders: pip install "truepair[small]"."""


def run(arguments: list[str]) -> None:
    """Run the command."""
    if "-h" in arguments or "--help" in arguments:
        print(HELP)
        return
    options = list(arguments)
    full = take_flag(options, "full")
    source = take_option(options, "data")
    folder = Path(take_option(options, "run-folder") or "runs/demo")
    started = time.perf_counter()

    from truepair.training.recipe import PretrainRecipe

    recipe = read_recipe(PretrainRecipe, [find_recipe("demo")], options, command="truepair demo")
    if full or source is not None:
        recipe = replace(recipe, data=replace(recipe.data, min_group_size=0))
    if source is not None:
        recipe = replace(recipe, data=replace(recipe.data, sources=[source], captions="draw"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")

    from truepair.cli.quiet import quiet_libraries
    from truepair.cli.tables import precision_table, retrieval_table
    from truepair.reports.run_report import report_run
    from truepair.tasks.pretraining import pretrain

    quiet_libraries()
    console = Console(stderr=True)
    outcome = pretrain(recipe, folder, console.print)
    command = shlex.join(["truepair", "demo", *arguments])
    report = report_run(outcome, folder, command=command, title="truepair demo")
    tables = Console()
    if outcome.retrieval is not None:
        tables.print(retrieval_table(outcome.retrieval))
    tables.print(precision_table(report.audit.precision))
    run = outcome.run
    console.print(f"{run.steps} steps in {run.seconds:.0f} s, {run.pairs_per_second:.0f} pairs/s")
    console.print(f"the page of what it found: {report.page} ({time.perf_counter() - started:.0f} s in all)")
