"""``truepair study STUDY.yaml``: runs a grid of methods, data and seeds, and reports what they found."""

import argparse
import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truepair.cli.arguments import find_recipe, laid_over, lay_recipe, nested, read_layers
from truepair.cli.options import CommandParser
from truepair.cli.run_folder import quiet_libraries, say
from truepair.errors import ConfigError, TruepairError
from truepair.tasks.study.config import StudyConfig

if TYPE_CHECKING:
    from truepair.methods.recipe import PretrainRecipe

DESCRIPTION = """Trains every arm of the study on every kind of data, draw of concepts and seed, each run once: the
same command goes on with a study that was stopped. Then it writes FOLDER/results.parquet, curves.parquet, table.md and
the page study.html."""


def run(words: list[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: the study cannot be read, or its folder holds another one.
        TruepairError: runs failed.
    """
    parser = CommandParser("truepair study", usage="STUDY.yaml [options]", description=DESCRIPTION)
    parser.add_argument("files", metavar="STUDY.yaml", nargs="*", help="arms, data and seeds")
    parser.option("folder", metavar="FOLDER", help="where everything goes (default: runs/NAME OF THE FILE)")
    parser.option(
        "workers",
        metavar="N",
        type=_count,
        default=os.cpu_count() or 1,
        help="runs at a time, each in a process with its share of the cores (default: one a core)",
    )
    parser.option("only", metavar="ARM", nargs="+", default=[], help="names of arms; the others are left alone")
    changed = "runs whose definition has changed since are done again, instead of being an error"
    parser.option("redo", action="store_true", help=changed)
    parser.option("list", action="store_true", help="only say what would be run")
    call = parser.read_or_help(words)
    if len(call.files) != 1:
        raise ConfigError("give one study file: truepair study STUDY.yaml")
    file = Path(call.files[0])
    folder = Path(call.folder or Path("runs") / file.stem)
    study = _read_study(file)

    from truepair.engine.state.lock import holding
    from truepair.reports.study import read_detectors, report_study
    from truepair.tasks.study.cells import runs_of, runs_of_arms
    from truepair.tasks.study.results import gather_results
    from truepair.tasks.study.runner import left_out_of, run_study, state_of

    quiet_libraries()
    every = runs_of(study, folder, partial(_read_recipe, file))
    chosen = runs_of_arms(every, call.only)
    if call.list:
        for one in chosen:
            say(f"{state_of(one)}: {one.name}")
        return
    detectors = file.parent / study.detectors if study.detectors else None
    if detectors is not None and read_detectors(detectors) is None:
        raise ConfigError(f"{file}: detectors: there is no file {detectors}")

    def gather() -> None:
        """Results and page of what is done."""
        done = [one for one in every if one.arm is not None and state_of(one) == "done"]
        if not done:
            return
        gather_results(file.stem, done, folder)
        left_out = left_out_of(done)
        for line in left_out:
            say(line)
        command = shlex.join(["truepair", "study", *words])
        page = report_study(
            folder,
            title=study.title,
            reference=study.reference,
            ceiling=study.ceiling,
            command=command,
            arms=list(study.arms),
            questions=study.questions,
            detectors=detectors,
            left_out=left_out,
        )
        say(f"{len(done)} cells; the page of what they found: {page}")

    with holding(folder, say):  # two would do the same runs, and gather each other's halves
        try:
            run_study(chosen, call.workers, say, redo=call.redo)
        except BaseException:
            with contextlib.suppress(TruepairError):  # what ended the study is what is told
                gather()
            raise
        gather()


def _read_study(file: Path) -> StudyConfig:
    values: dict[str, Any] = {}
    for _, stated in read_layers(file):
        values = laid_over(values, stated)
    return StudyConfig.from_values(values, str(file))


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
    return lay_recipe(PretrainRecipe, layers)


def _count(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"is {word!r}; give 1 or more")
    return int(word)
