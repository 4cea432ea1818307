"""``truepair study STUDY.yaml``: runs a grid of methods, data and seeds, and reports what they found."""

import os
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truepair.cli.arguments import (
    find_recipe,
    laid_over,
    lay_recipe,
    leading_words,
    nested,
    read_layers,
    take_flag,
    take_option,
)
from truepair.cli.opening import say
from truepair.errors import ConfigError

if TYPE_CHECKING:
    from truepair.methods.recipe import PretrainRecipe

HELP = """usage: truepair study STUDY.yaml [--folder FOLDER] [--workers N] [--only ARM ...] [--redo] [--list]

Trains every arm of the study on every kind of data, draw of concepts and seed, each run once: the same command goes on
with a study that was stopped. Then it writes FOLDER/results.parquet, curves.parquet, table.md and the page study.html.

  --folder     where everything goes (runs/<name of the file>)
  --workers    runs at a time, each in a process with its share of the cores (default: one a core)
  --only       names of arms; the others are left alone
  --redo       runs whose definition has changed since are done again, instead of being an error
  --list       only say what would be run"""


def run(arguments: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: the study cannot be read, or its folder holds another one.
        TruepairError: runs failed.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    options = list(arguments)
    words = leading_words(options)
    if len(words) != 1:
        raise ConfigError("give one study file: truepair study STUDY.yaml")
    file, only = Path(words[0]), _take_words(options, "only")
    listed, redo = take_flag(options, "list"), take_flag(options, "redo")
    folder = Path(take_option(options, "folder") or Path("runs") / file.stem)
    workers = _count(take_option(options, "workers"))
    if options:
        raise ConfigError(f"truepair study: there is no option {options[0]}; see truepair study --help")

    from truepair.cli.main import quiet_libraries
    from truepair.reports.study import read_detectors, report_study
    from truepair.tasks.study.cells import runs_of, runs_of_arms
    from truepair.tasks.study.config import StudyConfig
    from truepair.tasks.study.results import gather_results
    from truepair.tasks.study.runner import run_study, state_of

    quiet_libraries()
    values: dict[str, Any] = {}
    for _, stated in read_layers(file):
        values = laid_over(values, stated)
    study = StudyConfig.from_values(values, str(file))
    every = runs_of(study, folder, partial(_read_recipe, file))
    chosen = runs_of_arms(every, only)
    if listed:
        for one in chosen:
            say(f"{state_of(one)}: {one.name}")
        return
    detectors = file.parent / study.detectors if study.detectors else None
    if detectors is not None and read_detectors(detectors) is None:
        raise ConfigError(f"{file}: detectors: there is no file {detectors}")
    try:
        run_study(chosen, workers, say, redo=redo)
    finally:
        done = [one for one in every if one.arm is not None and state_of(one) == "done"]
        if done:
            gather_results(file.stem, done, folder)
            command = shlex.join(["truepair", "study", *arguments])
            page = report_study(
                folder,
                title=study.title,
                reference=study.reference,
                ceiling=study.ceiling,
                command=command,
                arms=list(study.arms),
                questions=study.questions,
                detectors=detectors,
            )
            say(f"{len(done)} cells; the page of what they found: {page}")


def _read_recipe(file: Path, names: Sequence[str], fields: Mapping[str, Any], where: str) -> "PretrainRecipe":
    """Lay recipes and fields over each other; a recipe is bundled, or a file beside the study's."""
    from truepair.methods.recipe import PretrainRecipe

    layers: list[tuple[str, Mapping[str, Any]]] = []
    for name in names:
        beside = file.parent / name
        layers += [
            (str(path), stated) for path, stated in read_layers(beside if beside.is_file() else find_recipe(name))
        ]
    layers += [(f"{file}: {where}", nested(name, value)) for name, value in fields.items()]
    return lay_recipe(PretrainRecipe, layers, where=f"{file}: {where}")


def _take_words(options: list[str], name: str) -> list[str]:
    """Take an option and all words behind it out of the arguments."""
    if f"--{name}" not in options:
        return []
    place = options.index(f"--{name}")
    rest = options[place + 1 :]
    del options[place:]
    words = leading_words(rest)
    options += rest
    if not words:
        raise ConfigError(f"--{name} needs a value")
    return words


def _count(word: str | None) -> int:
    if word is None:
        return os.cpu_count() or 1
    if not word.isdigit() or int(word) < 1:
        raise ConfigError(f"--workers is {word!r}; give 1 or more")
    return int(word)
