"""``truepair mine RECIPE [RECIPE ...]``: finds the false negatives of a whole training set."""

from pathlib import Path

from truepair.cli.arguments import take_option
from truepair.cli.opening import open_recipe, pretrain_recipe, say
from truepair.errors import ConfigError

HELP = """usage: truepair mine RECIPE [RECIPE ...] [--judge FOLDER] [--run-folder FOLDER] [--high 0.8] [--low 0.5]
                     [--any.field value ...]

Scores all undeclared pairs of the recipe's training split with a judge (default runs/judge, made by 'truepair judge'),
corrects the scores by what likely partners of both pairs say, and records the matches in FOLDER/ledger (default
runs/mined): action relabel from --high on, swap from --low on. A later run reads them at no cost per step:

  relations:
    rules:
    - {detector: recorded, ledger: runs/mined/ledger, ledger_actions: [relabel], action: relabel}"""


def run(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no recipe is given, or it cannot be used.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    options = list(arguments)
    judge = Path(take_option(options, "judge") or "runs/judge")
    high, low = (_probability(options, name, default) for name, default in (("high", 0.8), ("low", 0.5)))
    opened = open_recipe(options, "truepair mine", pretrain_recipe, folder="runs/mined")

    from truepair.mining.mine import MiningConfig
    from truepair.tasks.mining import mine

    with opened.recorded():
        mine(opened.recipe, judge, opened.folder, say, MiningConfig(low=low, high=high))


def _probability(options: list[str], name: str, default: float) -> float:
    word = take_option(options, name)
    if word is None:
        return default
    try:
        return float(word)
    except ValueError as error:
        raise ConfigError(f"--{name} is {word!r}; give a probability between 0 and 1") from error
