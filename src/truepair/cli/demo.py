"""``truepair demo``: trains a small model without and with false-negative management, and shows what it found."""

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from truepair.cli.arguments import find_recipe, read_recipe, take_flag, take_option
from truepair.cli.opening import keep_recipe, say

if TYPE_CHECKING:
    from truepair.methods.recipe import PretrainRecipe

HELP = """usage: truepair demo [--full] [--data PAIRS] [--judge FOLDER] [--run-folder FOLDER] [--any.field value ...]

Trains a small ALBEF (ITC + ITM + MLM) on the bundled drawings in minutes on two cores, once as the field does and once
with the false negatives that a judge found in the training set turned into matches; prints retrieval figures of both,
and writes FOLDER/report.html (runs/demo/report.html) with curves, examples, suspected false negatives and converted
pairs.

The judge is fitted on clean pairs of a hundred other concepts; no truth about a training pair is ever used.

  --full         all concepts of the sample, those of the judge included; so there is no managed run
  --data PAIRS   your own pairs (any format of `truepair pretrain`), with train and test splits
  --judge FOLDER a judge of your own (`truepair judge`), for --data
  --run-folder   where everything goes; an interrupted demo goes on from there

It needs the small pre-trained encoders: pip install "truepair[small]"."""

CLEAN = 0.2
"""Share of the clean concepts (those that the runs leave out) that the judge is fitted on."""

PLAIN, MANAGED = "as declared", "false negatives managed"


def run(arguments: list[str]) -> None:
    """Run the command."""
    if "-h" in arguments or "--help" in arguments:
        print(HELP)
        return
    options = list(arguments)
    full = take_flag(options, "full")
    source, judge = take_option(options, "data"), take_option(options, "judge")
    folder = Path(take_option(options, "run-folder") or "runs/demo")
    started = time.perf_counter()

    from truepair.methods.recipe import PretrainRecipe

    def read(*names: str) -> PretrainRecipe:
        """Bundled recipes under the options of the command line."""
        return read_recipe(PretrainRecipe, [find_recipe(name) for name in names], options, command="truepair demo")

    plain = _on_data(read("demo"), source, full)
    arms = {PLAIN: plain}

    from truepair.cli.main import quiet_libraries
    from truepair.cli.tables import comparison_table, conversion_table, precision_table
    from truepair.mining.mine import MiningConfig
    from truepair.reports.run import ReportedRun, report_runs
    from truepair.tasks.mining import fit_judge, mine
    from truepair.tasks.pretraining import pretrain

    quiet_libraries()
    if judge is None and source is None and not full:
        clean = read("demo", "clean")
        fit_judge(replace(clean, data=replace(clean.data, group_share=CLEAN)), folder / "judge", say)
        judge = str(folder / "judge")
    if judge is not None:
        mine(plain, Path(judge), folder / "mined", say, MiningConfig(low=0.1, high=0.5))
        arms[MANAGED] = _managed(plain, read("demo", "mined"), folder / "mined" / "ledger")
    runs = {}
    for name, recipe in arms.items():
        say(f"training: {name}")
        place = folder / name.replace(" ", "-")
        keep_recipe(recipe, place)
        runs[name] = ReportedRun(pretrain(recipe, place, say), place)
    report = report_runs(runs, folder, command=shlex.join(["truepair", "demo", *arguments]), title="truepair demo")
    tables = Console()
    figures = comparison_table({name: run.outcome.retrieval for name, run in runs.items()})
    if figures is not None:
        tables.print(figures)
    tables.print(precision_table(report.audit))
    if report.conversions:
        tables.print(conversion_table(report.conversions))
    for name, run in runs.items():
        done = run.outcome.run
        say(f"{name}: {done.steps} steps in {done.seconds:.0f} s, {done.pairs_per_second:.0f} pairs/s")
    say(f"the page of what it found: {report.page} ({time.perf_counter() - started:.0f} s in all)")


def _managed(plain: "PretrainRecipe", mined: "PretrainRecipe", ledger: Path) -> "PretrainRecipe":
    """The plain recipe with the rules of ``mined``, on another ledger."""
    rules = [rule | ({"ledger": str(ledger)} if "ledger" in rule else {}) for rule in mined.relations.rules]
    return replace(plain, relations=replace(mined.relations, rules=rules))


def _on_data(recipe: "PretrainRecipe", source: str | None, full: bool) -> "PretrainRecipe":
    """The recipe on all concepts of the sample, or on pairs of the user's."""
    data, text = recipe.data, recipe.text
    if full or source is not None:
        data = replace(data, min_group_size=0)
    if source is not None:
        data = replace(data, sources=[source], captions="draw")  # sentences: several an image, longer than names
        text = replace(text, max_length=max(text.max_length, 25))
    return replace(recipe, data=data, text=text)
