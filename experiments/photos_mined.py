"""Photographs with matches that a judge found: what 0, 200 or 800 answers of a person are worth in training.

    python experiments/photos_mined.py mine
    truepair study experiments/photos.yaml --workers 2      # or some of its arms: --only InfoNCE 'mined 200, smooth'
    python experiments/photos_mined.py figures

where dataset_flickr8k.json with its folder of images and human_judgements.jsonl lie.

People judged crossed pairs of test photographs alone. So all photographs are mined together. ``mine`` asks about the
pairs that people have judged, in the order of ``truepair review``, fits its judge on what they said, and writes what
that judge says of candidates among the training photographs into ``runs/photos-mined/ANSWERS/ledger``. Pairs that
nearly match are not asked. No answer is about a training photograph, and no run trains on a test photograph. What is
mined is not mined again.

``figures`` measures the models that the study left on the 1,000 test photographs, by the usual protocol and with what
people found to match, each once. Writes ``mined.json`` and ``mined.md``.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from clicks import ROUND, crossed
from numpy.typing import NDArray

from truepair.cli.arguments import find_recipe, read_recipe
from truepair.cli.run_folder import quiet_libraries
from truepair.data.judgements import judged_captions, read_judgements
from truepair.data.open import open_pairs
from truepair.engine.logs.log import read_log
from truepair.errors import DataError, TruepairError
from truepair.evaluation.metrics import evaluate_retrieval
from truepair.files import write_json, write_text
from truepair.judges.answered import Standardised, fit_answered
from truepair.methods.caches import StateCaches
from truepair.methods.recipe import PretrainRecipe
from truepair.mining.asking import next_round
from truepair.mining.candidates import CANDIDATES, Candidates
from truepair.mining.gallery import Gallery, Integers
from truepair.mining.prior import PRIOR
from truepair.mining.signals.encoded import Encoded
from truepair.mining.signals.families import compute_signals, usual_families
from truepair.models.open import OpenedModel, open_model
from truepair.relations.detectors import Recorded
from truepair.relations.ledger import Ledger
from truepair.relations.standing import Standing
from truepair.tasks.encoding import EncodingConfig, encode_gallery
from truepair.tasks.retrieval import ImageSource, RetrievalTask, one_row_a_picture
from truepair.tasks.unlabelled import mine_gallery

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

LOW, HIGH = Recorded.usual.low, Recorded.usual.high
"""A candidate is doubtful from the first on, and suspected to match from the second; below, no rule reads it."""

SEED = 0  # of the order in which pairs are asked

REFERENCE = "InfoNCE"

BATCHES = {"all": 128, "batches-of-1024": 1024}
"""Folder of a kind of data in the study -> pairs of a batch."""

FIGURES = "photos_mined.json"
"""Of a run, in its folder."""

PROTOCOLS = {"usual": "usual protocol", "people": "with people's matches"}

RECALLS = ("recall_at_1", "recall_at_5", "recall_at_10")


def with_judged(encoded: Encoded, candidates: Candidates, judgements: Path) -> tuple[Candidates, Integers, Flags]:
    """The candidates and all pairs that people have judged, the numbers of these, and which match [J] each.

    Few judged pairs are among the candidates of all photographs. Those that are not have no agreement of likely
    partners, which counts as its mean.
    """
    families, _ = usual_families(encoded)
    photos, captions, matches = crossed(encoded.gallery, read_judgements(judgements))
    found, names = compute_signals(photos, captions, families)
    signals = np.full((len(photos), len(candidates.names)), np.nan, np.float32)
    signals[:, [candidates.names.index(name) for name in names]] = found
    size = len(encoded.gallery.texts)
    known = candidates.pictures * size + candidates.captions  # [P]
    added = ~np.isin(photos * size + captions, known)
    print(f"{len(added) - added.sum():,} of {len(added):,} judged pairs are candidates; the others are added to them")
    columns = [(candidates.pictures, photos), (candidates.captions, captions), (candidates.signals, signals)]
    pictures, texts, signals = (np.concatenate([old, new[added]]) for old, new in columns)
    prior = PRIOR.log_odds(signals, candidates.names)
    whole = replace(candidates, pictures=pictures, captions=texts, signals=signals, prior=prior)
    order = np.argsort(pictures * size + texts)
    place = order[np.searchsorted((pictures * size + texts)[order], photos * size + captions)]
    return whole, place, matches


def judges(
    candidates: Candidates, numbers: Integers, matches: Flags, answers: Sequence[int]
) -> Iterator[tuple[str, Integers, Floats]]:
    """Name of the judge after so many answers each, numbers of the pairs that were asked, and log-odds of all [P]."""
    signals, prior = Standardised.of(candidates.signals), candidates.prior
    said = np.zeros(len(candidates))
    said[numbers] = matches
    free = np.zeros(len(candidates), bool)
    free[numbers] = True
    which = np.zeros(0, np.int64)
    name, log_odds = f"prior:{PRIOR.fingerprint[:12]}", prior
    for wanted in sorted(answers):
        while len(which) < wanted:
            asked = next_round(log_odds, free, len(which), SEED, size=min(ROUND, wanted - len(which)))
            if not asked:
                raise DataError(f"{wanted} answers are wanted, and {len(which):,} pairs are judged")
            which = np.concatenate([which, [number for number, _ in asked]])
            free[which] = False
            judge = fit_answered(candidates.names, signals, prior, which, said[which], candidates.pictures[which]).judge
            name, log_odds = judge.name, judge.log_odds_of(signals.values, prior)
        yield name, which, log_odds


def among_training(candidates: Candidates, gallery: Gallery) -> Flags:
    """Which candidates are of a training photograph and a caption of another one [P]."""
    split = np.array(gallery.table.values("split"))[gallery.rows]
    training = split == "train"  # [N]
    stated = training[gallery.pictures.values]
    of_training = np.bincount(gallery.pictures.owners, weights=stated, minlength=len(gallery.texts)) > 0  # [M]
    found: Flags = training[candidates.pictures] & of_training[candidates.captions]
    return found


def mine(options: argparse.Namespace) -> None:
    """Write a ledger for each number of answers, and ``mining.json``: how much they find."""
    encoded = encode_gallery(open_pairs(options.data), EncodingConfig(), print)
    families, lacking = usual_families(encoded)
    for line in lacking:
        print(line)
    if not (options.mined / CANDIDATES).is_file():
        options.mined.mkdir(parents=True, exist_ok=True)
        mine_gallery(encoded, families, None, print)[0].save(options.mined)
    candidates = Candidates.load(options.mined)
    mined = len(candidates)
    candidates, numbers, matches = with_judged(encoded, candidates, options.judgements)
    training = among_training(candidates, encoded.gallery)
    facts: dict[str, Any] = {
        "candidates": mined,
        "of_training_photographs": int(training.sum()),
        "judged": len(numbers),
        "judged_matches": int(matches.sum()),
        "answers": {},
    }
    for name, which, log_odds in judges(candidates, numbers, matches, options.answers):
        probabilities = (1 / (1 + np.exp(-log_odds.astype(np.float64)))).astype(np.float32)
        kept = np.flatnonzero(training & (probabilities >= LOW))
        folder = options.mined / str(len(which)) / "ledger"
        with Ledger(folder) as ledger:
            ledger.clear()
            candidates.record(ledger, probabilities[kept], judge=name, which=kept)
        Standing(judge=name, answers=len(which)).save(folder)
        sure = probabilities[kept] >= HIGH
        facts["answers"][len(which)] = {
            "judge": name,
            "matches_found": int(matches[np.isin(numbers, which)].sum()),
            "suspected": int(sure.sum()),
            "doubtful": int((~sure).sum()),
            "expected_matches_among_suspected": float(probabilities[kept][sure].sum()),
            "expected_matches_among_doubtful": float(probabilities[kept][~sure].sum()),
            "not_asked": not_asked(probabilities[numbers], matches, np.isin(numbers, which)),
        }
        print(len(which), json.dumps(facts["answers"][len(which)], indent=1), flush=True)
    write_json(options.mined / "mining.json", facts)


def not_asked(probabilities: Floats, matches: Flags, asked: Flags) -> dict[str, dict[str, int]]:
    """Of the judged pairs that the judge was not asked about, how many it suspects or doubts, and how many match."""
    zones = {"suspected": probabilities >= HIGH, "doubtful": (probabilities >= LOW) & (probabilities < HIGH)}
    return {
        zone: {"pairs": int((among & ~asked).sum()), "match": int((among & ~asked & matches).sum())}
        for zone, among in zones.items()
    }


class TestPhotos:
    """The test photographs, by states of the frozen encoders that all models of the study share.

    Args:
        options: where they lie.
        first: one of the models.
    """

    def __init__(self, options: argparse.Namespace, first: OpenedModel) -> None:
        table = one_row_a_picture(open_pairs(options.data, split="test"), print)
        stated = ["--data.sources", json.dumps([options.data]), "--data.transform.size", "224"]
        recipe = read_recipe(PretrainRecipe, [*map(find_recipe, ("sample", "study"))], stated, command="photos_mined")
        caches = StateCaches(recipe, first, print)
        table, states = caches.images(table)
        collator = first.preprocessing.collator()
        judged = judged_captions(table, read_judgements(options.judgements))
        images = ImageSource(table, cache=states)
        self.task = RetrievalTask(collator, images, recipe.evaluation, judged, cache=caches.captions)

    def measure(self, opened: OpenedModel) -> dict[str, list[float]]:
        """R@1, R@5, R@10 of photographs, then of captions, in per cent, by protocol."""
        ranking = self.task.rankings(self.task.encode(opened.model), rerank=False)["similarity"]
        found = evaluate_retrieval(ranking.texts, self.task.truth, captions=ranking.captions, resamples=0)
        sides = {"usual": (found.naive_i2t, found.naive_t2i), "people": (found.i2t, found.t2i)}
        return {
            protocol: [100 * getattr(side, name).value for side in both for name in RECALLS]
            for protocol, both in sides.items()
        }


def meetings(folder: Path) -> dict[str, float]:
    """How many suspected and doubtful pairs met in a batch of a run, on average."""
    records = read_log(folder / "log.jsonl")
    steps = max(record["step"] for record in records if record["kind"] == "step")
    found: dict[str, float] = {}
    for record in records:
        for name, value in record.items():
            if name.startswith("relations/recorded/"):
                action = name.rpartition("/")[2]
                found[action] = found.get(action, 0.0) + value / steps
    return found


def figures(options: argparse.Namespace) -> None:
    """Measure what is not measured yet, and write figures of all runs."""
    photos: TestPhotos | None = None
    rows: list[dict[str, Any]] = []
    for result in sorted(options.study.glob("cells/*/0/*/*/result.json")):
        folder = result.parent
        data, _, arm, seed = folder.parts[-4:]
        if not (folder / FIGURES).is_file():
            if not (folder / "model").is_dir():
                continue  # an arm without mined pairs, whose model the study does not keep
            opened = open_model(folder / "model")
            photos = photos or TestPhotos(options, opened)
            write_json(folder / FIGURES, photos.measure(opened) | {"meetings": meetings(folder)})
        score = json.loads(result.read_text(encoding="utf-8"))["figures"]["held_out"]["retrieval_score"]
        measured = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        rows.append({"arm": arm, "batch": BATCHES[data], "seed": int(seed), "score": score, **measured})
    mining = json.loads((options.mined / "mining.json").read_text(encoding="utf-8"))
    options.results.mkdir(parents=True, exist_ok=True)
    write_json(options.results / "mined.json", {"mining": mining, "runs": rows})
    write_text(options.results / "mined.md", table(rows))
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Recall, and what each arm gains over none seed by seed, in Markdown: mean and standard deviation."""
    lines = []
    for batch in sorted({row["batch"] for row in rows}):
        runs = [row for row in rows if row["batch"] == batch]
        arms = list(dict.fromkeys(row["arm"] for row in runs))
        for protocol, title in PROTOCOLS.items():
            lines += [f"Batches of {batch:,}, {title}:", ""]
            lines += ["| arm | runs | photographs R@1 / 5 / 10 | captions | mean | gain |", "|---|---|---|---|---|---|"]
            nothing = {row["seed"]: mean(row[protocol]) for row in runs if row["arm"] == REFERENCE}
            for arm in arms:
                of = [row for row in runs if row["arm"] == arm]
                recalls = [spread(list(column)) for column in zip(*(row[protocol] for row in of), strict=True)]
                gains = [mean(row[protocol]) - nothing[row["seed"]] for row in of if row["seed"] in nothing]
                gain = "" if arm == REFERENCE or not gains else spread(gains, "+")
                means = spread([mean(row[protocol]) for row in of])
                both = f"{' / '.join(recalls[:3])} | {' / '.join(recalls[3:])}"
                lines.append(f"| {arm} | {len(of)} | {both} | {means} | {gain} |")
            lines.append("")
    return "\n".join(lines)


def spread(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation."""
    return f"{mean(values):{sign}.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mine", "figures"))
    parser.add_argument("--data", default="dataset_flickr8k.json")
    parser.add_argument("--judgements", type=Path, default=Path("human_judgements.jsonl"))
    parser.add_argument("--answers", type=int, nargs="+", default=[0, 200, 800], help="how many")
    parser.add_argument("--mined", type=Path, default=Path("runs/photos-mined"), help="where the ledgers go")
    parser.add_argument("--study", type=Path, default=Path("runs/photos"), help="folder of the study")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "photos")
    options = parser.parse_args()
    quiet_libraries()
    {"mine": mine, "figures": figures}[options.what](options)


if __name__ == "__main__":
    try:
        main()
    except TruepairError as error:
        sys.exit(f"error: {error}")
