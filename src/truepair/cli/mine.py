"""``truepair mine [RECIPE ...] SOURCE ...``: finds the false negatives of a whole training set."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truepair.cli.fields import RecipeClass
from truepair.cli.run_folder import PRETRAIN, Opening, RecipeCommand, say
from truepair.errors import ConfigError

if TYPE_CHECKING:
    from truepair.methods.recipe import PretrainRecipe

DESCRIPTION = """Finds the pairs of a picture and a caption that nobody declared and that may match, and writes them
into FOLDER, the most suspicious first. A SOURCE holds the pairs: a file, a folder, a pattern of shards, or owner/name
on the hub: 'truepair mine pairs.csv'. No labels are needed, and no recipe; with nothing judged no precision is stated:
'truepair review runs/mined' asks people next.

With --judge FOLDER, which 'truepair judge' fitted on clean groups, the pairs of a RECIPE are scored by that judge, and
corrected by what likely partners of both pairs say; those of at least --low are recorded in FOLDER/ledger. A later run
reads them at no cost per step; its rules say from where on a pair is a match (high), and what becomes of the others:

  relations:
    rules:
    - {detector: recorded, ledger: runs/mined/ledger, zone: match, low: 0.1, high: 0.5, action: relabel}
    - {detector: recorded, ledger: runs/mined/ledger, zone: doubtful, low: 0.1, high: 0.5, action: smooth}"""

_THRESHOLDS = ("high", "low")

_ENCODING = ("model", "text_encoder", "image_encoder", "image_size", "workers", "cache_check")

_ASKING: dict[str, dict[str, Any]] = {
    "ask": {"metavar": "KIND:NAME", "action": "append"},
    "ask_most": {"metavar": "N", "type": int},
    "ask_prompt": {"metavar": "TEXT"},
    "group": {"metavar": "COLUMN"},
}


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: no pairs are given, or they cannot be used.
    """
    command = RecipeCommand(
        "truepair mine", PRETRAIN, DESCRIPTION, folder="runs/mined", sources="data.sources", alone=True
    )
    option = command.parser.option
    option("judge", metavar="FOLDER", help="made by 'truepair judge' on clean groups (default: none, no labels)")
    thresholds = RecipeClass[object]("truepair.mining.mine", "MiningConfig").section
    for name in _THRESHOLDS:
        says = f"with --judge: {thresholds.describe()[name]} (default: {thresholds.fields[name].default})"
        option(name, metavar="P", type=_probability, default=argparse.SUPPRESS, help=says)
    encoding = RecipeClass[object]("truepair.tasks.encoding", "EncodingConfig").section
    for name in _ENCODING:
        kind = int if name in ("image_size", "workers") else str
        says = f"{encoding.describe()[name]} (default: {encoding.fields[name].default or 'none'})"
        option(
            name.replace("_", "-"),
            metavar="N" if kind is int else "NAME",
            type=kind,
            default=argparse.SUPPRESS,
            help=says,
        )
    unlabelled = RecipeClass[object]("truepair.tasks.unlabelled", "UnlabelledConfig").section
    for name in ("top", "candidates"):
        option(name, metavar="N", type=int, default=argparse.SUPPRESS, help=unlabelled.describe()[name])
    for name, settings in _ASKING.items():
        says = unlabelled.describe()[name]
        option(name.replace("_", "-"), default=argparse.SUPPRESS, help=says, **settings)
    opened = command.open(words)
    stated = vars(opened.options)
    judged = stated["judge"] is not None
    wrong = [*_ENCODING, "top", "candidates", *_ASKING] if judged else list(_THRESHOLDS)
    for name in wrong:
        if name in stated:
            said = "says nothing beside" if judged else "needs"
            raise ConfigError(f"truepair mine: --{name.replace('_', '-')} {said} --judge; drop one of both")
    with opened.recorded():
        if judged:
            _by_judge(opened)
        else:
            _without_labels(opened, shlex.join(["truepair", "mine", *words]))


def _by_judge(opened: "Opening[PretrainRecipe]") -> None:
    from truepair.mining.mine import MiningConfig
    from truepair.tasks.mining import mine

    stated = {name: value for name, value in vars(opened.options).items() if name in _THRESHOLDS}
    mine(opened.recipe, Path(opened.options.judge), opened.folder, say, MiningConfig(**stated))


def _without_labels(opened: "Opening[PretrainRecipe]", command: str) -> None:
    from truepair.reports.mining import write_suspects
    from truepair.tasks.encoding import EncodingConfig
    from truepair.tasks.unlabelled import UnlabelledConfig, mine_unlabelled

    stated = vars(opened.options)
    encoding = {name: stated[name] for name in _ENCODING if name in stated}
    amounts = {name: stated[name] for name in ("top", "candidates", *_ASKING) if name in stated}
    if "ask" in amounts:
        amounts["ask"] = tuple(amounts["ask"])
    config = UnlabelledConfig(encoding=EncodingConfig(**encoding), **amounts)
    mined = mine_unlabelled(opened.recipe.data, config, opened.folder, say)
    page = write_suspects(mined, opened.folder / "suspects.html", top=config.top, command=command)
    say(f"the most suspicious, with pictures: {page}")


def _probability(word: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is {word!r}; give a probability between 0 and 1") from error
