"""``truepair judge RECIPE [RECIPE ...]``: fits a judge of undeclared pairs on clean ones."""

from truepair.cli.opening import open_recipe, pretrain_recipe, say

HELP = """usage: truepair judge RECIPE [RECIPE ...] [--run-folder FOLDER] [--any.field value ...]

Fits a judge on clean pairs: those of the recipe's training split, whose 'group' column says which show the same. It
learns what images and captions of matching pairs have in common, in the features of the recipe's frozen encoders.
'truepair judge sample clean' fits one on the bundled sample (into runs/judge); 'truepair pretrain sample converted'
trains with it."""


def run(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no recipe is given, or it cannot be used.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    opened = open_recipe(list(arguments), "truepair judge", pretrain_recipe, folder="runs/judge")

    from truepair.tasks.mining import fit_judge

    with opened.recorded():
        fit_judge(opened.recipe, opened.folder, say)
