"""``truepair judge RECIPE [RECIPE ...]``: fits a judge of undeclared pairs on clean ones."""

from truepair.cli.run_folder import PRETRAIN, RecipeCommand, say

DESCRIPTION = """Fits a judge on clean pairs: those of the recipe's training split, whose 'group' column says which show
the same. It learns what images and captions of matching pairs have in common, in the features of the recipe's frozen
encoders. Without such pairs, 'truepair mine' and 'truepair review' make a judge of your own answers instead.
'truepair judge sample clean' fits one on the bundled sample (into runs/judge); 'truepair train sample
converted' trains with it."""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no recipe is given, or it cannot be used.
    """
    opened = RecipeCommand("truepair judge", PRETRAIN, DESCRIPTION, folder="runs/judge").open(words)

    from truepair.tasks.mining import fit_judge

    with opened.recorded():
        fit_judge(opened.recipe, opened.folder, say)
