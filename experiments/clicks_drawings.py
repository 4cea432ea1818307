"""What answers of a person are worth in training: share of the oracle's gain that a mined and reviewed ledger recovers.

    python experiments/clicks_drawings.py

On the bundled drawings, one caption each, no group given. A simulated person answers by the known truth what
``truepair review`` asks; a run reads the ledger after so many answers as recipe ``mined`` does. The oracle relabels all
hidden matches; the runs without either know those that are declared: one image, one caption text. With no answer at all
the ledger is that of ``truepair mine``, and the run is told ``--unjudged``. What is trained is not trained again.
Writes ``drawings.json`` and ``drawings.md``.
"""

import argparse
import json
import shutil
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from truepair.cli.arguments import find_recipe, read_recipe
from truepair.cli.run_folder import quiet_libraries
from truepair.data.splits import build_tables
from truepair.data.table import PairTable
from truepair.evaluation.detectors import detector_metrics
from truepair.evaluation.truth import Truth
from truepair.files import write_json, write_text
from truepair.judges.answered import AnsweredJudge
from truepair.methods.recipe import PretrainRecipe
from truepair.mining.candidates import Candidates
from truepair.mining.prior import PRIOR
from truepair.mining.signals.families import usual_families
from truepair.relations.ledger import Ledger
from truepair.relations.standing import Standing
from truepair.relations.text import caption_key
from truepair.review.session import ReviewSession
from truepair.tasks.encoding import EncodingConfig, encode_gallery
from truepair.tasks.pretraining import pretrain
from truepair.tasks.study.results import figures_of
from truepair.tasks.study.runner import StudentMemory
from truepair.tasks.unlabelled import mine_gallery

Rules = list[dict[str, object]]

SAME: Rules = [{"detector": "same_image", "action": "relabel"}, {"detector": "same_caption", "action": "relabel"}]

ORACLE: dict[str, object] = {"detector": "same_group", "action": "relabel"}

SCORE = "retrieval_score"

_students = StudentMemory()

Arms = dict[str, Rules]


def recipe_of(draw: int, seed: int, rules: Rules, fields: list[str]) -> PretrainRecipe:
    """A run of recipe ``study``: ITC on frozen encoders, 200 concepts with all their drawings."""
    stated = {
        "data.groups": 200,
        "data.group_seed": draw,
        "loop.seed": seed,
        "relations.rules": rules,
        "relations.unjudged": True,
    }
    words = [word for name, value in stated.items() for word in (f"--{name}", json.dumps(value))]
    recipes = [*map(find_recipe, ("sample", "study"))]
    return read_recipe(PretrainRecipe, recipes, [*words, *fields], command="clicks_drawings")


def first_captions(table: PairTable) -> PairTable:
    """The drawings with one caption each."""
    return PairTable(table.rows.map(lambda row: {name: row[name][:1] for name in ("captions", "caption_ids")}))


def truth_of(candidates: Candidates, table: PairTable) -> NDArray[np.bool_]:
    """Which candidates match."""
    truth = Truth.from_table(table)
    assert truth is not None
    keys = torch.tensor([caption_key(text) for text in candidates.texts])
    rows = torch.from_numpy(candidates.rows[candidates.pictures])
    return truth.matches(rows, keys[torch.from_numpy(candidates.captions)]).numpy()


class Ledgers:
    """Ledgers of a draw of concepts, by the number of answers behind them.

    Args:
        folder: of the draw.
        draw: of concepts.
        answers: how many.
    """

    def __init__(self, folder: Path, draw: int, answers: list[int]) -> None:
        self.folder = folder
        figures = folder / "judge.json"
        if not figures.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(figures, {"draw": draw, "rows": self._review(draw, sorted(answers))})
        self.rows: list[dict[str, Any]] = json.loads(figures.read_text(encoding="utf-8"))["rows"]

    def of(self, answers: int) -> Path:
        """The ledger after so many answers."""
        return self.folder / f"ledger-{answers}"

    def _review(self, draw: int, answers: list[int]) -> list[dict[str, Any]]:
        table = first_captions(build_tables(recipe_of(draw, 0, [], []).data).train)
        encoded = encode_gallery(table, EncodingConfig(), print)
        candidates, _ = mine_gallery(encoded, usual_families(encoded)[0], None, print)
        matches = truth_of(candidates, encoded.gallery.table)
        keys = zip(candidates.pictures.tolist(), candidates.captions.tolist(), strict=True)
        truth = {f"{picture}-{caption}": match for (picture, caption), match in zip(keys, matches, strict=True)}
        mined = self.folder / "mined"
        shutil.rmtree(mined, ignore_errors=True)
        mined.mkdir(parents=True)
        candidates.save(mined)
        odds = candidates.prior
        with Ledger(mined / "ledger") as ledger:
            chances = (1 / (1 + np.exp(-odds))).astype(np.float32)
            candidates.record(ledger, chances, judge=f"prior:{PRIOR.fingerprint[:12]}")
        Standing(judge=f"prior:{PRIOR.fingerprint[:12]}").save(mined / "ledger")
        rows = []
        with ReviewSession(mined, seed=draw) as session:
            said = 0
            for wanted in answers:
                while said < wanted:
                    question = session.ask("truth")
                    assert question is not None
                    session.answer("truth", question.key, "yes" if truth[question.key] else "no")
                    said += 1
                if wanted:
                    name = session.finish().judge.partition(":")[2]
                    judge = AnsweredJudge.load(mined / "judges" / f"{name}.json")
                    odds = judge.log_odds(candidates.signals, candidates.prior)
                shutil.rmtree(self.of(wanted), ignore_errors=True)
                shutil.copytree(mined / "ledger", self.of(wanted))
                rows.append({"answers": wanted, **judged_figures(odds, matches)})
                print({"draw": draw, **rows[-1]}, flush=True)
        return rows


def judged_figures(log_odds: NDArray[np.float32], matches: NDArray[np.bool_]) -> dict[str, float]:
    """How good a judge is on all candidates."""
    found = detector_metrics(torch.from_numpy(log_odds), torch.from_numpy(matches))
    sure = log_odds >= 0
    return {
        "average_precision": found.average_precision,
        "precision": float(matches[sure].mean()) if sure.any() else 1.0,
        "recall": float(matches[sure].sum() / matches.sum()),
    }


def arms_of(ledgers: Ledgers, answers: list[int]) -> Arms:
    """Rules of each arm."""
    arms: Arms = {"InfoNCE": [], "declared": [*SAME], "oracle": [*SAME, ORACLE]}
    for number in answers:
        recorded: dict[str, object] = {"detector": "recorded", "ledger": str(ledgers.of(number))}
        arms[f"mined, {number} answers"] = [
            *SAME,
            recorded | {"zone": "match", "action": "relabel"},
            recorded | {"zone": "doubtful", "action": "smooth", "share": 1.0},
        ]
    return arms


def train(folder: Path, recipe: PretrainRecipe) -> float:
    """Do a run, unless it is done, and return its score in per cent."""
    file = folder / "figures.json"
    if not file.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with (folder / "said.txt").open("w", encoding="utf-8") as said:
            pretrain(recipe, folder, lambda line: print(line, file=said), build=_students.build)
        write_json(file, {SCORE: figures_of(folder)["held_out"][SCORE]})
    return float(json.loads(file.read_text(encoding="utf-8"))[SCORE])


def table_of(runs: list[dict[str, Any]], judges: list[dict[str, Any]]) -> str:
    """Scores, gains over what is declared and shares of the oracle's, and the judges, in Markdown."""
    scores = {(run["arm"], run["draw"], run["seed"]): run["score"] for run in runs}
    cells = [(draw, seed) for arm, draw, seed in scores if arm == "declared"]

    def gain(arm: str, cell: tuple[int, int], over: str) -> float:
        return float(scores[arm, *cell] - scores[over, *cell])

    lines = [
        "| arm | score | gain over declared | share of the oracle's gain | share, over InfoNCE |",
        "|---|---|---|---|---|",
    ]
    for arm in dict.fromkeys(run["arm"] for run in runs):
        of = [scores[arm, *cell] for cell in cells]
        gains = [gain(arm, cell, "declared") for cell in cells]
        shares = [
            mean(gain(arm, cell, over) for cell in cells) / mean(gain("oracle", cell, over) for cell in cells)
            for over in ("declared", "InfoNCE")
        ]
        spread = f" ± {stdev(gains):.1f}" if len(gains) > 1 else ""
        lines.append(f"| {arm} | {mean(of):.1f} | {mean(gains):+.1f}{spread} | {shares[0]:.0%} | {shares[1]:.0%} |")
    lines += ["", "The judge on all candidates, mean of the draws; sure is from a probability of one half:", ""]
    lines += ["| answers | average precision | precision of the sure | recall of the sure |", "|---|---|---|---|"]
    for answers in dict.fromkeys(row["answers"] for row in judges):
        rows = [row for row in judges if row["answers"] == answers]
        figures = (mean(row[name] for row in rows) for name in ("average_precision", "precision", "recall"))
        lines.append(f"| {answers} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Review and train what is not there yet, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/clicks_drawings"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "clicks")
    parser.add_argument("--answers", type=int, nargs="+", default=[0, 100, 300, 1000])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options, fields = parser.parse_known_args()
    quiet_libraries()
    drawn = {draw: Ledgers(options.runs / str(draw), draw, options.answers) for draw in options.draws}
    runs: list[dict[str, Any]] = []
    for seed, (draw, ledgers) in product(options.seeds, drawn.items()):
        for arm, rules in arms_of(ledgers, options.answers).items():
            folder = options.runs / str(draw) / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
            score = train(folder, recipe_of(draw, seed, rules, fields))
            runs.append({"arm": arm, "draw": draw, "seed": seed, "score": score})
            print(runs[-1], flush=True)
    judges = [{"draw": draw, **row} for draw, ledgers in drawn.items() for row in ledgers.rows]
    options.results.mkdir(parents=True, exist_ok=True)
    write_json(options.results / "drawings.json", {"runs": runs, "judges": judges})
    write_text(options.results / "drawings.md", table_of(runs, judges))
    print(table_of(runs, judges))


if __name__ == "__main__":
    main()
