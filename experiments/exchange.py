"""The exchange law: at which precision does relabelling suspected matches beat masking them, and either beat nothing?

On the bundled drawings, whose truth is known, each run is told of the same 60 % of the hidden matches, drawn at random,
and of as many wrong pairs, the most similar ones (captions and pictures together, by the frozen encoders), as make
the stated precision. It relabels them, masks them, or smooths them: gives each as large a share of the target as the
precision says, which is what a calibrated judge would say of each; and once more by a judge that is too sure of itself
by 0.2. Draws of concepts and seeds differ together.

    python experiments/exchange.py

What is trained is not trained again. Writes ``runs.json``, ``table.md`` and ``exchange.svg``.
"""

import argparse
import json
import shutil
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from truepair.cli.arguments import find_recipe, read_recipe
from truepair.evaluation.truth import Truth
from truepair.files import write_json, write_text
from truepair.judges.evidence import EvidenceTables
from truepair.methods.recipe import PretrainRecipe
from truepair.mining.graph import Declared
from truepair.relations.ledger import Ledger
from truepair.tasks.mining import frozen_inputs
from truepair.tasks.pretraining import pretrain
from truepair.tasks.study.results import figures_of
from truepair.tasks.study.runner import StudentMemory

RECALL = 0.6
"""Share of the hidden matches that the runs are told of."""

PRECISIONS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

TOO_SURE = 0.2

ARMS = {
    "relabel": {"action": "relabel"},
    "mask": {"action": "mask"},
    "smooth": {"action": "smooth", "share": 1.0},
    "smooth, too sure": {"action": "smooth", "share": 1.0},
}
"""Name -> what a rule does with the pairs."""

SAME = [{"detector": "same_image", "action": "relabel"}, {"detector": "same_caption", "action": "relabel"}]

FIGURES = ("retrieval_score", "naive")

_students = StudentMemory()


def recipe_of(seed: int, rules: list[dict[str, object]], fields: list[str]) -> PretrainRecipe:
    """A run of recipe ``study``: ITC on frozen encoders, 200 concepts with all their drawings."""
    stated = {"data.groups": 200, "data.group_seed": seed, "loop.seed": seed, "relations.rules": [*SAME, *rules]}
    words = [word for name, value in stated.items() for word in (f"--{name}", json.dumps(value))]
    return read_recipe(PretrainRecipe, [*map(find_recipe, ("sample", "study"))], [*words, *fields], command="exchange")


class Pairs:
    """The training pairs of a draw, which of them match unknown to the data, and which look most as if they did.

    Args:
        recipe: names them.
        seed: draws the hidden matches that are found.
        folder: takes the list of what is left out.
    """

    def __init__(self, recipe: PretrainRecipe, seed: int, folder: Path) -> None:
        inputs = frozen_inputs(recipe, folder, print)
        self.declared = Declared.of_table(inputs.table)
        self.caption_ids = torch.tensor([ids[0] for ids in inputs.table.rows["caption_ids"]])
        truth = Truth.from_table(inputs.table)
        assert truth is not None
        keys, images = self.declared.caption_keys, self.declared.image_ids
        hidden = truth.hidden_pairs(images, keys)
        order = torch.randperm(len(hidden), generator=torch.Generator().manual_seed(seed))
        self.found = hidden.linear[order[: round(RECALL * len(hidden))]]  # [F]
        tables = EvidenceTables.of_run(inputs)
        similarity = tables.images @ tables.images.T + tables.texts @ tables.texts.T  # [N, N]
        similarity.view(-1)[hidden.linear] = -torch.inf
        similarity[(images[:, None] == images) | (keys[:, None] == keys)] = -torch.inf
        most = round(len(self.found) * (1 / min(PRECISIONS) - 1))
        self.wrong = similarity.view(-1).topk(most).indices  # the most similar first

    def record(self, folder: Path, precision: float, said: float) -> None:
        """Write a ledger of found matches and wrong pairs, each with the probability that a judge says."""
        wrong = self.wrong[: round(len(self.found) * (1 / precision - 1))]
        cells = torch.cat([self.found, wrong])
        rows, columns = cells // len(self.declared), cells % len(self.declared)
        shutil.rmtree(folder, ignore_errors=True)
        with Ledger(folder) as ledger:
            probabilities = torch.full((len(cells),), said)
            ledger.record(self.declared.image_ids[rows], self.caption_ids[columns], probabilities, judge="exchange")


def train(folder: Path, seed: int, rules: list[dict[str, object]], fields: list[str]) -> None:
    """Do a run, and keep its figures, in per cent: of its truth, and by the usual protocol."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "said.txt").open("w", encoding="utf-8") as said:
        pretrain(recipe_of(seed, rules, fields), folder, lambda line: print(line, file=said), build=_students.build)
    found = figures_of(folder)["held_out"]
    write_json(folder / "figures.json", {name: found[name] for name in FIGURES})


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and standard deviation of what each arm gains over none, seed by seed, in Markdown."""
    lines = []
    for figure, title in zip(FIGURES, ("score (R@1 and mAP, all matches)", "R@1, own pair only"), strict=True):
        lines += [f"Gain over doing nothing, {title}:", ""]
        lines += [f"| precision | {' | '.join(ARMS)} |", "|---|" + "---|" * len(ARMS)]
        for precision in PRECISIONS:
            of_arms = (gains(runs, arm, precision, figure) for arm in ARMS)
            cells = [f"{mean(of):+.1f}" + (f" (± {stdev(of):.1f})" if len(of) > 1 else "") for of in of_arms]
            lines.append(f"| {precision:g} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def gains(runs: list[dict[str, Any]], arm: str, precision: float, figure: str) -> list[float]:
    """What an arm gains over none with each seed."""
    nothing = {run["seed"]: run[figure] for run in runs if run["arm"] == "none"}
    return [run[figure] - nothing[run["seed"]] for run in runs if (run["arm"], run["precision"]) == (arm, precision)]


def draw(runs: list[dict[str, Any]], file: Path) -> None:
    """The table of the score as a plot, with a band of one standard deviation."""
    mpl.rcParams["svg.hashsalt"] = "exchange"
    figure = Figure((6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="gray", linewidth=0.8)
    for arm in ARMS:
        of_arm = [gains(runs, arm, precision, FIGURES[0]) for precision in PRECISIONS]
        middle, spread = [mean(of) for of in of_arm], [stdev(of) if len(of) > 1 else 0.0 for of in of_arm]
        (line,) = axes.plot(PRECISIONS, middle, marker="o", label=arm)
        low, high = ([m + sign * s for m, s in zip(middle, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(PRECISIONS, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_xlabel("precision of the suspected matches")
    axes.set_ylabel("gain over doing nothing, points")
    axes.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Train what is not there yet, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/exchange"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "exchange")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options, fields = parser.parse_known_args()
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        place: Path = options.runs / str(seed)
        pairs = Pairs(recipe_of(seed, [], fields), seed, options.runs)
        print(f"seed {seed}: {len(pairs.declared):,} pairs, {len(pairs.found):,} hidden matches are found", flush=True)
        for arm, precision in [("none", 1.0), *product(ARMS, PRECISIONS)]:
            folder = place / f"{arm}-{precision:g}".replace(", ", "-").replace(" ", "-")
            if not (folder / "figures.json").is_file():
                rule = {"detector": "recorded", "ledger": str(place / "ledger"), "low": 0.0, "high": 0.0}
                said = min(1.0, precision + (TOO_SURE if arm == "smooth, too sure" else 0.0))
                pairs.record(place / "ledger", precision, said)
                train(folder, seed, [] if arm == "none" else [rule | ARMS[arm]], fields)
            figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
            runs.append({"arm": arm, "precision": precision, "seed": seed, **figures})
            print(runs[-1], flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    write_json(options.results / "runs.json", {"recall": RECALL, "runs": runs})
    write_text(options.results / "table.md", table(runs))
    draw(runs, options.results / "exchange.svg")
    print(table(runs))


if __name__ == "__main__":
    main()
