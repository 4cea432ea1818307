"""``truepair train RECIPE [RECIPE ...] [SOURCE ...] [--any.field value]``, in older scripts ``truepair pretrain``."""

import shlex
import time

from truepair.cli.arguments import bundled_recipes
from truepair.cli.run_folder import PRETRAIN, RecipeCommand, is_first_process, say

DESCRIPTION = """A RECIPE is a YAML file, or the name of a bundled recipe: {names}.
Of several, each is laid over the ones before: 'truepair train mafa sample' trains MAFA on the bundled sample.
A SOURCE holds the pairs: a file, a folder, a pattern of shards, or owner/name on the hub:
'truepair train clip pairs.csv --model.checkpoint FOLDER'. It takes the place of the recipe's own.
A run that was stopped goes on from its last checkpoint when the same command is given again."""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no recipe is given, or it cannot be used.
    """
    command = RecipeCommand(
        "truepair train", PRETRAIN, DESCRIPTION.format(names=", ".join(bundled_recipes())), sources="data.sources"
    )
    command.parser.option(
        "report",
        action="store_true",
        help="write FOLDER/report.html at the end: curves, examples, and the suspected false negatives of the training "
        "set",
    )
    opened = command.open(words)

    from rich.console import Console

    from truepair.cli.tables import precision_table, retrieval_table, zero_shot_tables
    from truepair.reports.run import report_run
    from truepair.tasks.pretraining import pretrain

    started = time.perf_counter()
    with opened.recorded():
        outcome = pretrain(opened.recipe, opened.folder, say)

    done = outcome.run
    speed = f"{done.pairs_per_second:.0f} pairs/s in training" if done.seconds else "trained in an earlier call"
    say(f"{done.steps} steps in {time.perf_counter() - started:.0f} s ({speed}); model in {done.model_folder}")
    if outcome.retrieval is not None:
        Console().print(retrieval_table(outcome.retrieval))
    if outcome.zero_shot is not None:
        for table in zero_shot_tables(outcome.zero_shot.after, outcome.zero_shot.before):
            Console().print(table)
    if opened.options.report and is_first_process():
        called = shlex.join(["truepair", "train", *words])
        report = report_run(outcome, opened.folder, command=called, title=opened.title)
        Console().print(precision_table(report.audit))
        say(f"the page of what it found: {report.page}")
