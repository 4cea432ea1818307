"""``truepair demo``: trains a small model without and with false-negative management, and shows what it found."""

import argparse
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from truepair.cli.arguments import find_recipe, read_fields
from truepair.cli.options import CommandParser
from truepair.cli.run_folder import PRETRAIN, keep_recipe, quiet_libraries, say
from truepair.display import show

if TYPE_CHECKING:
    from truepair.methods.recipe import PretrainRecipe

DESCRIPTION = """Trains a small ALBEF (ITC + ITM + MLM) on the bundled drawings in minutes on two cores, once as the
field does and once with the false negatives that a judge found in the training set turned into matches; prints
retrieval figures of both, and writes FOLDER/report.html with curves, examples, suspected false negatives and converted
pairs.

The judge is fitted on clean pairs of a hundred other concepts; no truth about a training pair is ever used. Of your own
pairs (--data) nothing is known: they are mined without labels, and suspects get shares of the target.

It needs the small pre-trained encoders: pip install "truepair[small]"."""

CLEAN = 0.2
"""Share of the clean concepts (those that the runs leave out) that the judge is fitted on."""

TESTED = 0.2
"""Share of a user's pictures that is tested on where no split says which."""

PLAIN, MANAGED = "as declared", "false negatives managed"


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: a field or an option cannot be used.
    """
    parser = CommandParser(
        "truepair demo", PRETRAIN.section, usage="[options] [--any.field value ...]", description=DESCRIPTION
    )
    everything = "all concepts of the sample, those of the judge included; so there is no managed run"
    own_pairs = "your own pairs (any format of 'truepair train'); a fifth is tested on if no split is"
    parser.option("full", action="store_true", help=everything)
    parser.option("data", metavar="PAIRS", help=own_pairs)
    parser.option("judge", metavar="FOLDER", help="a judge of your own ('truepair judge'), for --data")
    going_on = "where everything goes (default: runs/demo); an interrupted demo goes on from there"
    parser.option("run-folder", metavar="FOLDER", default="runs/demo", help=going_on)
    if {"-h", "--help"} & set(words):
        parser.print_help()
        return
    call = parser.read(words)
    plain = _on_data(_read(call, "demo"), call.data, call.full)

    from truepair.engine.state.lock import holding

    with holding(Path(call.run_folder), say):
        _run(call, plain, command=shlex.join(["truepair", "demo", *words]))


def _read(call: argparse.Namespace, *names: str) -> "PretrainRecipe":
    """Bundled recipes under the fields of the command line."""
    return read_fields(PRETRAIN, [find_recipe(name) for name in names], call.stated, command="truepair demo")


def _run(call: argparse.Namespace, plain: "PretrainRecipe", command: str) -> None:
    """Fit a judge, mine, train and report, all in one folder."""
    source, judge, folder = call.data, call.judge, Path(call.run_folder)
    started = time.perf_counter()

    from truepair.cli.tables import comparison_table, conversion_table, precision_table
    from truepair.data.splits import build_tables
    from truepair.reports.run import ReportedRun, report_runs
    from truepair.tasks.mining import fit_judge, mine
    from truepair.tasks.pretraining import pretrain
    from truepair.tasks.unlabelled import UnlabelledConfig, mine_unlabelled

    quiet_libraries()
    if source is not None and not plain.data.test_share and build_tables(plain.data).test is None:
        say(f"{source} has no pairs to test on: both runs leave out {TESTED:.0%} of the pictures, to be tested on them")
        plain = replace(plain, data=replace(plain.data, test_share=TESTED))
    arms = {PLAIN: plain}
    if judge is None and source is None and not call.full:
        clean = _read(call, "demo", "clean")
        fit_judge(replace(clean, data=replace(clean.data, group_share=CLEAN)), folder / "judge", say)
        judge = str(folder / "judge")
    mined = folder / "mined"
    if judge is not None:
        mine(plain, Path(judge), mined, say)
        arms[MANAGED] = _managed(plain, _read(call, "demo", "mined"), mined / "ledger")
    elif source is not None:
        mine_unlabelled(plain.data, UnlabelledConfig(), mined, say)
        say(
            f"nobody has judged any of these pairs: suspects get shares of the target; truepair review {mined} asks you"
        )
        managed = _managed(plain, _read(call, "demo", "mined"), mined / "ledger")
        arms[MANAGED] = replace(managed, relations=replace(managed.relations, unjudged=True))
    runs = {}
    for name, recipe in arms.items():
        say(f"training: {name}")
        place = folder / name.replace(" ", "-")
        keep_recipe(recipe, place)
        runs[name] = ReportedRun(pretrain(recipe, place, say), place)
    report = report_runs(runs, folder, command=command, title="truepair demo")
    figures = comparison_table({name: run.outcome.retrieval for name, run in runs.items()})
    if figures is not None:
        show(figures)
    show(precision_table(report.audit))
    if any(len(found) for found in report.conversions.values()):
        show(conversion_table(report.conversions))
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
