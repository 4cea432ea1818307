"""``truepair pretrain RECIPE [RECIPE ...] [--any.field value]``."""

import shlex
import time

from rich.console import Console

from truepair.cli.arguments import bundled_recipes, take_flag
from truepair.cli.opening import is_first_process, open_recipe, pretrain_recipe, say

HELP = """usage: truepair pretrain RECIPE [RECIPE ...] [--run-folder FOLDER] [--report] [--any.field value ...]

A RECIPE is a YAML file, or the name of a bundled recipe: {names}.
Of several, each is laid over the ones before: 'truepair pretrain mafa sample' trains MAFA on the bundled sample.
A run that was stopped goes on from its last checkpoint when the same command is given again.
--report writes FOLDER/report.html at the end: curves, examples, and the suspected false negatives of the training set.

'truepair pretrain RECIPE --help' lists every field of a recipe."""


def run(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no recipe is given, or it cannot be used.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(names=", ".join(bundled_recipes())))
        return
    options = list(arguments)
    with_report = take_flag(options, "report")
    opened = open_recipe(options, "truepair pretrain", pretrain_recipe)

    from truepair.cli.tables import precision_table, retrieval_table
    from truepair.tasks.pretraining import pretrain

    started = time.perf_counter()
    with opened.recorded():
        outcome = pretrain(opened.recipe, opened.folder, say)
    done = outcome.run
    speed = f"{done.pairs_per_second:.0f} pairs/s in training" if done.seconds else "trained in an earlier call"
    say(f"{done.steps} steps in {time.perf_counter() - started:.0f} s ({speed}); model in {done.model_folder}")
    if outcome.retrieval is not None:
        Console().print(retrieval_table(outcome.retrieval))
    if with_report and is_first_process():
        from truepair.reports.run import report_run

        command = shlex.join(["truepair", "pretrain", *arguments])
        report = report_run(outcome, opened.folder, command=command, title=opened.title)
        Console().print(precision_table(report.audit))
        say(f"the page of what it found: {report.page}")
