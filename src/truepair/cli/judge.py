"""``truepair judge RECIPE [RECIPE ...]``: fits a judge of undeclared pairs on clean ones."""

from pathlib import Path

from rich.console import Console

from truepair.cli.arguments import read_recipe
from truepair.cli.recipes import take_option, take_recipes

HELP = """usage: truepair judge RECIPE [RECIPE ...] [--run-folder FOLDER] [--any.field value ...]

Fits a judge on clean pairs: those of the recipe's training split, whose 'group' column says which show the same. It
learns what images and captions of matching pairs have in common, in the features of the recipe's frozen encoders.
'truepair judge sample clean' fits one on the bundled sample; 'truepair pretrain sample converted' trains with it."""


def run(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no recipe is given, or it cannot be used.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    options = list(arguments)
    names, paths = take_recipes(options, "truepair judge")
    folder = Path(take_option(options, "run-folder") or "runs/judge")

    from truepair.training.recipe import PretrainRecipe

    recipe = read_recipe(PretrainRecipe, paths, options, command=f"truepair judge {' '.join(names)}")

    from truepair.cli.quiet import quiet_libraries
    from truepair.tasks.judge import fit_judge

    quiet_libraries()
    fit_judge(recipe, folder, Console(stderr=True).print)
