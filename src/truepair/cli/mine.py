"""``truepair mine RECIPE [RECIPE ...]``: finds the false negatives of a whole training set."""

import argparse
from pathlib import Path

from truepair.cli.fields import RecipeClass
from truepair.cli.run_folder import PRETRAIN, RecipeCommand, say

DESCRIPTION = """Scores all undeclared pairs of the recipe's training split with a judge, corrects the scores by what
likely partners of both pairs say, and records those of at least --low in FOLDER/ledger. A later run reads them at no
cost per step; its rules say from where on a pair is a match (high), and what becomes of the doubtful ones:

  relations:
    rules:
    - {detector: recorded, ledger: runs/mined/ledger, zone: match, low: 0.1, high: 0.5, action: relabel}
    - {detector: recorded, ledger: runs/mined/ledger, zone: doubtful, low: 0.1, high: 0.5, action: smooth}"""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no recipe is given, or it cannot be used.
    """
    command = RecipeCommand("truepair mine", PRETRAIN, DESCRIPTION, folder="runs/mined")
    command.parser.option(
        "judge", metavar="FOLDER", default="runs/judge", help="made by 'truepair judge' (default: runs/judge)"
    )
    thresholds = RecipeClass[object]("truepair.mining.mine", "MiningConfig").section
    for name in ("high", "low"):
        says = f"{thresholds.describe()[name]} (default: {thresholds.fields[name].default})"
        command.parser.option(name, metavar="P", type=_probability, default=argparse.SUPPRESS, help=says)
    opened = command.open(words)

    from truepair.mining.mine import MiningConfig
    from truepair.tasks.mining import mine

    stated = {name: value for name, value in vars(opened.options).items() if name in ("high", "low")}
    with opened.recorded():
        mine(opened.recipe, Path(opened.options.judge), opened.folder, say, MiningConfig(**stated))


def _probability(word: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is {word!r}; give a probability between 0 and 1") from error
