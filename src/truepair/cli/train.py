"""``truepair train RECIPE [RECIPE ...] [SOURCE ...] [--any.field value]``, in older scripts ``truepair pretrain``."""

import shlex
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from truepair.cli import finetune
from truepair.cli.arguments import bundled_recipes
from truepair.cli.importing import importing
from truepair.cli.run_folder import PRETRAIN, Opening, RecipeCommand, say
from truepair.cli.tasks import trained_tasks
from truepair.display import show
from truepair.engine.distributed.launch import is_first_process
from truepair.errors import ConfigError

if TYPE_CHECKING:
    from truepair.methods.recipe import PretrainRecipe

DESCRIPTION = """A RECIPE is a YAML file, or the name of a bundled recipe: {names}.
Of several, each is laid over the ones before: 'truepair train mafa sample' trains MAFA on the bundled sample.
A SOURCE holds the pairs: a file, a folder, a pattern of shards, or owner/name on the hub:
'truepair train clip pairs.csv --model.checkpoint FOLDER'. It takes the place of the recipe's own.
'truepair train TASK ...' is 'truepair finetune TASK ...'.
A run that was stopped goes on from its last checkpoint when the same command is given again."""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no recipe is given, or it cannot be used.
    """
    if words and words[0] in trained_tasks():
        finetune.run(words)
        return
    command = RecipeCommand(
        "truepair train", PRETRAIN, DESCRIPTION.format(names=", ".join(bundled_recipes())), sources="data.sources"
    )
    command.parser.option(
        "report",
        action="store_true",
        help="write FOLDER/report.html at the end: curves, examples, and the suspected false negatives of the training "
        "set",
    )
    command.parser.option(
        "merge",
        action="store_true",
        help="for model.lora: write the adapted model as a whole as well, to FOLDER/merged",
    )
    command.parser.option(
        "unjudged",
        action="store_true",
        help="go on with a mined ledger of which nobody has judged any pair: its suspects get shares of the target, "
        "none becomes a match (relations.unjudged)",
    )
    opened = command.open(words)
    if opened.options.unjudged:
        relations = replace(opened.recipe.relations, unjudged=True)
        opened = replace(opened, recipe=replace(opened.recipe, relations=relations))
    if opened.options.merge and opened.recipe.model.lora is None:
        raise ConfigError(
            "--merge is for adapters, and this run trains none; set model.lora, or lay recipe lora under it"
        )

    with opened.held():
        _train(opened, called=shlex.join(["truepair", "train", *words]))


def _train(opened: "Opening[PretrainRecipe]", called: str) -> None:
    """Train, and write what is asked for beside the model."""
    with importing():
        from truepair.tasks.pretraining import pretrain

    started = time.perf_counter()
    with opened.recorded():
        outcome = pretrain(opened.recipe, opened.folder, say)

    # What a page is drawn with takes half a second to import, which the first step need not wait for.
    from truepair.cli.tables import precision_table, retrieval_table, zero_shot_tables
    from truepair.engine.logs.log import read_log
    from truepair.models.dual.lora import merge_adapter
    from truepair.reports.card import write_card
    from truepair.reports.run import report_run
    from truepair.tasks.conversions import rule_counts

    done = outcome.run
    speed = f"{done.pairs_per_second:.0f} pairs/s in training" if done.seconds else "trained in an earlier call"
    say(f"{done.steps} steps in {time.perf_counter() - started:.0f} s ({speed}); model in {done.model_folder}")
    if opened.options.merge and is_first_process():
        merge_adapter(done.model_folder, opened.folder / "merged")
        say(f"merged into its base: {opened.folder / 'merged'}")
    for (detector, action), cells in rule_counts(read_log(opened.folder / "log.jsonl")).items():
        say(f"rule {detector}, {action}: {cells:,} pairs of batches, over all epochs")
    if outcome.retrieval is not None:
        show(retrieval_table(outcome.retrieval))
    if outcome.zero_shot is not None:
        for table in zero_shot_tables(outcome.zero_shot.after, outcome.zero_shot.before):
            show(table)
    if (
        is_first_process()
        and done.model_folder.is_dir()
        and write_card(opened.folder, opened.recipe, command=called) is None
    ):
        say(f"{done.model_folder}/README.md is yours, and stays as it is")
    if opened.options.report and is_first_process():
        report = report_run(outcome, opened.folder, command=called, title=opened.title)
        if report.audit.ties:
            say(report.audit.ties)
        show(precision_table(report.audit))
        say(f"the page of what it found: {report.page}")
