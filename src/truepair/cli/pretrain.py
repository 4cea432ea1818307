"""``truepair pretrain RECIPE [RECIPE ...] [--any.field value]``."""

import shlex
import time
from pathlib import Path

from rich.console import Console

from truepair.cli.arguments import read_recipe, to_yaml
from truepair.cli.recipes import bundled_recipes, take_flag, take_option, take_recipes

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
    names, paths = take_recipes(options, "truepair pretrain")
    chosen, with_report = take_option(options, "run-folder"), take_flag(options, "report")

    from truepair.training.recipe import PretrainRecipe

    recipe = read_recipe(PretrainRecipe, paths, options, command=f"truepair pretrain {' '.join(names)}")
    folder = Path(chosen) if chosen is not None else Path("runs") / "-".join(path.stem for path in paths)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")

    from truepair.cli.quiet import quiet_libraries
    from truepair.cli.tables import retrieval_table
    from truepair.tasks.pretraining import pretrain

    quiet_libraries()
    console = Console(stderr=True)
    started = time.perf_counter()
    outcome = pretrain(recipe, folder, console.print)
    console.print(
        f"{outcome.run.steps} steps in {time.perf_counter() - started:.0f} s "
        f"({outcome.run.pairs_per_second:.0f} pairs/s in training); model in {outcome.run.model_folder}"
    )
    if outcome.retrieval is not None:
        Console().print(retrieval_table(outcome.retrieval))
    if with_report:
        from truepair.reports.run_report import report_run

        command = shlex.join(["truepair", "pretrain", *arguments])
        report = report_run(outcome, folder, command=command, title=f"truepair pretrain {' '.join(names)}")
        console.print(f"the page of what it found: {report.page}")
