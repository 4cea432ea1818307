"""``truepair evaluate MODEL [--data PAIRS]``."""

from pathlib import Path

from rich.console import Console

from truepair.cli.arguments import read_recipe
from truepair.errors import ConfigError

HELP = """usage: truepair evaluate MODEL [--data PAIRS] [--split SPLIT] [--any.field value ...]

MODEL is the 'model' folder of a run. Prints retrieval figures under the known truth beside the naive
ones, which count only each picture's own caption; by similarity alone, and with ITM re-ranking.

'truepair evaluate MODEL --help' lists every option."""


def run(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no model is given.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    if arguments[0].startswith("--"):
        raise ConfigError("give the model first: truepair evaluate runs/demo/model [--data PAIRS]")

    from truepair.cli.quiet import quiet_libraries
    from truepair.cli.tables import retrieval_table
    from truepair.tasks.evaluation import EvaluateConfig, evaluate_model

    config = read_recipe(EvaluateConfig, [], arguments[1:], command=f"truepair evaluate {arguments[0]}")
    quiet_libraries()
    Console().print(retrieval_table(evaluate_model(Path(arguments[0]), config)))
