"""Question 6 of the study: detectors of hidden matches against people's judgements of photos with several captions.

    python experiments/flickr8k_detectors.py --data DIR/dataset_flickr8k.json --judgements DIR/human_judgements.jsonl

Detectors are fitted by cross-validation over photos; with ``--test-judgements FILE`` on the first file, and tested on
the second. Own pairs and nearly matching ones are left out. Writes ``detectors.json`` for ``truepair study``.
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.cli.arguments import find_recipe, read_recipe
from truepair.cli.run_folder import quiet_libraries
from truepair.data.judgements import read_judgements
from truepair.data.table import PairTable
from truepair.errors import TruepairError
from truepair.evaluation.detectors import average_precision_interval, brier_score, detector_metrics, reliability
from truepair.judges.caption_evidence import (
    ALIGNMENT_TERMS,
    caption_pairs,
    caption_space,
    image_to_caption,
    set_similarity,
)
from truepair.judges.caption_words import WordStatistics
from truepair.judges.captions import CaptionFeatures, CaptionJudge, Evidence, caption_evidence
from truepair.judges.evidence import pooled_captions, pooled_images
from truepair.methods.recipe import PretrainRecipe
from truepair.models.encoders.minilm import load_minilm
from truepair.models.fusion.gallery import GalleryMatcher, encode_captions, encode_images
from truepair.models.open import open_model
from truepair.relations.pairs import PairSet
from truepair.tasks.mining import frozen_inputs
from truepair.tasks.retrieval import ImageSource

FOLDS = 10
HALVES = 5


@dataclass(frozen=True)
class Photos:
    """One split: its photos, and what frozen encoders make of photos and captions."""

    table: PairTable
    captions: list[list[str]]
    images: Tensor  # [N, F]
    vectors: Tensor  # [N, K, D]

    @classmethod
    def open(cls, data: str, split: str) -> "Photos":
        """Read a split and its cached states, which are computed first if there are none."""
        changes = {
            "--data.sources": json.dumps([data]),
            "--data.min_group_size": "0",
            "--data.captions": "draw",
            "--data.train_split": split,
            "--data.test_split": "",
            "--data.validation_split": "",
            "--text.max_length": "25",
        }
        words = [word for change in changes.items() for word in change]
        recipe = read_recipe(PretrainRecipe, [find_recipe("sample")], words, command="flickr8k_detectors")
        run = frozen_inputs(recipe, print)
        assert run.image_cache is not None and run.caption_cache is not None
        captions = run.table.values("captions")
        flat = [text for own in captions for text in own]
        vectors = pooled_captions(run.caption_cache, flat).view(len(captions), len(captions[0]), -1)
        return cls(run.table, captions, pooled_images(run.image_cache), vectors)


def read_judged(path: str, photos: Photos) -> PairSet:
    """Judged pairs of a split, without own and nearly matching ones; values are 1 for matches."""
    table = photos.table
    rows = {image_id: row for row, image_id in enumerate(table.image_ids.tolist())}
    places = {
        caption_id: (row, place)
        for row, ids in enumerate(table.values("caption_ids"))
        for place, caption_id in enumerate(ids)
    }
    found = [
        (rows[item.image_id], *places[item.caption_id], item.label == "match")
        for item in read_judgements(path)
        if item.image_id in rows and item.caption_id in places and item.label != "near"
    ]
    images, owners, spots, labels = torch.tensor([cell for cell in found if cell[0] != cell[1]]).T
    return caption_pairs(images, owners, spots, photos.vectors.shape, labels.bool())


def labels_of(judged: PairSet) -> Tensor:
    """Which judged pairs are matches, bool [P]."""
    return judged.values > 0.5


def single_detectors(photos: Photos, train: Photos, pairs: PairSet, evidence: Evidence) -> dict[str, Tensor]:
    """Scores of detectors that need no judgement."""
    similarity = set_similarity(photos.vectors, pairs)  # [P, 6]
    predicted = image_to_caption(train.images, train.vectors)(photos.images)  # [N, D]
    centre = train.vectors.mean(dim=(0, 1))
    captions = F.normalize(photos.vectors.flatten(0, 1)[pairs.columns] - centre, dim=1)
    return {
        "guide similarity, best own caption": similarity[:, 0],
        "guide similarity, mean of own captions": similarity[:, 1],
        "image to caption, ridge regression": (predicted[pairs.rows] * captions).sum(dim=1),
        "token alignment, last layer": evidence["alignment"][:, -len(ALIGNMENT_TERMS)],
    }


def model_detectors(folder: Path, photos: Photos, pairs: PairSet) -> dict[str, Tensor]:
    """Scores of a trained model: similarity of its ITC features, and its ITM head."""
    trained = open_model(folder)
    model, collator = trained.model.eval(), trained.preprocessing.collator()
    transform = trained.preprocessing.images()
    images = encode_images(model, ImageSource(photos.table, collator, transform=transform).batches())
    texts = [text for own in photos.captions for text in own]
    judge = GalleryMatcher(model, images, encode_captions(model, texts, collator.encode))
    found = {"image to caption, ITC": (images.features[pairs.rows] * judge.captions.features[pairs.columns]).sum(dim=1)}
    if model.itm_trained:
        order = pairs.rows.argsort()
        log_odds = torch.cat([judge(pairs.rows[some], pairs.columns[some]) for some in order.split(256)])
        found["con-D, ITM"] = log_odds[order.argsort()]
    return found


def cross_validated(evidence: Evidence, judged: PairSet, *, folds: int = FOLDS, seed: int = 0) -> Tensor:
    """Probability of each pair, by a judge that saw no judgement of its photo [P]."""
    photos, photo = judged.rows.unique(return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    fold = (torch.randperm(len(photos), generator=generator) % folds)[photo]  # [P]
    found = torch.zeros(len(labels_of(judged)), dtype=torch.float64)
    for number in range(folds):
        found[fold == number] = fitted_elsewhere(evidence, labels_of(judged), fold != number)
    return found


def fitted_elsewhere(evidence: Evidence, labels: Tensor, seen: Tensor) -> Tensor:
    """Probabilities of the unseen pairs, by a judge fitted on those seen, bool [P]."""
    judge = CaptionJudge.fit({name: columns[seen] for name, columns in evidence.items()}, labels[seen])
    return judge.probabilities({name: columns[~seen] for name, columns in evidence.items()})


def on_halves(evidence: Evidence, judged: PairSet) -> list[float]:
    """Average precision on one half of the photos when fitted on the other, for random halves."""
    photos, photo = judged.rows.unique(return_inverse=True)
    values = []
    for seed in range(HALVES):
        order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed))
        seen = (order < len(photos) // 2)[photo]
        scores = fitted_elsewhere(evidence, labels_of(judged), seen)
        values.append(detector_metrics(scores, labels_of(judged)[~seen]).average_precision)
    return values


def figures(name: str, scores: Tensor, judged: PairSet) -> dict[str, object]:
    """Figures of one detector, as ``detectors.json`` states them."""
    found = detector_metrics(scores, labels_of(judged))
    interval = average_precision_interval(scores, labels_of(judged), judged.rows)
    row = {
        "name": name,
        "auc": found.auc,
        "average_precision": found.average_precision,
        "average_precision_interval": [interval.low, interval.high],
        "precision_at_recall": {str(recall): value for recall, value in found.precision_at_recall.items()},
    }
    at_recall = " | ".join(f"{value:.3f}" for value in found.precision_at_recall.values())
    spread = f"{found.average_precision:.3f} ({interval.low:.3f} to {interval.high:.3f})"
    print(f"| {name} | {found.auc:.4f} | {spread} | {at_recall} |", flush=True)
    return row


def calibration(probabilities: Tensor, labels: Tensor) -> dict[str, object]:
    """Print and return how far the probabilities can be believed."""
    bins, brier = reliability(probabilities, labels), brier_score(probabilities, labels)
    constant = brier_score(labels.double().mean().expand(len(labels)), labels)
    print(f"\nBrier score {brier:.5f}; of the constant share of matches {constant:.5f}\n")
    print("| predicted | pairs | mean prediction | share of matches |\n|---|---|---|---|")
    for part in bins:
        print(f"| {part.low:g} to {part.high:g} | {part.pairs:,} | {part.predicted:.3f} | {part.true:.3f} |")
    return {"brier": brier, "brier_of_constant": constant, "reliability": [asdict(part) for part in bins]}


def ablation(evidence: Evidence, judged: PairSet) -> dict[str, float]:
    """Average precision of the combination without each family."""
    print("\n| without | columns | average precision |\n|---|---|---|")
    found = {}
    for family, columns in evidence.items():
        rest = {name: some for name, some in evidence.items() if name != family}
        found[family] = detector_metrics(cross_validated(rest, judged), labels_of(judged)).average_precision
        print(f"| {family} | {columns.shape[1]} | {found[family]:.3f} |", flush=True)
    return found


def main() -> None:
    """Measure, print tables in Markdown, write ``detectors.json``."""
    options = arguments()
    quiet_libraries()
    photos, train = Photos.open(options.data, options.split), Photos.open(options.data, "train")
    statistics = WordStatistics.of(text for own in train.captions for text in own)
    features = CaptionFeatures.encode(photos.captions, load_minilm(), statistics)
    space = caption_space(train.vectors)
    judged = read_judged(options.judgements, photos)
    evidence = caption_evidence(features, space, judged)
    if options.test_judgements:
        known, known_evidence = judged, evidence
        judged = read_judged(options.test_judgements, photos)
        evidence = caption_evidence(features, space, judged)
        probabilities = CaptionJudge.fit(known_evidence, labels_of(known)).probabilities(evidence)
    else:
        probabilities = cross_validated(evidence, judged)
    scores = single_detectors(photos, train, judged, evidence)
    scores["all evidence on captions"] = probabilities
    if options.model:
        found = model_detectors(Path(options.model), photos, judged)
        scores |= found
        if not options.test_judgements:
            combined = evidence | {"model": torch.stack(list(found.values()), dim=1)}
            scores["all evidence on captions, and the model"] = cross_validated(combined, judged)
    pairs, matches = len(labels_of(judged)), int(labels_of(judged).sum())
    print(f"{pairs:,} judged pairs of {len(judged.rows.unique())} photos, {matches} of them matches\n")
    print("| detector | AUC | AP (95 % interval) | precision at recall 0.1 | 0.25 | 0.5 |\n|---|---|---|---|---|---|")
    rows = [figures(name, values, judged) for name, values in scores.items()]
    result = {
        "data": options.name,
        "pairs": pairs,
        "matches": matches,
        "detectors": rows,
        "command": shlex.join(["python", *sys.argv]),
        "calibration": calibration(probabilities, labels_of(judged)),
    }
    if not options.test_judgements:
        values = torch.tensor(on_halves(evidence, judged))
        print(f"\nfitted on a half of the photos, tested on the other, {HALVES} times: AP {values.mean():.3f}")
        print(", ".join(f"{value:.3f}" for value in values.tolist()) + f"; standard deviation {values.std():.3f}")
        result["halves"] = values.tolist()
    if options.ablation:
        result["without"] = ablation(evidence, judged)
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="photos with several captions, in splits")
    parser.add_argument("--judgements", required=True, help="JSON Lines of judged pairs")
    parser.add_argument("--test-judgements", help="fit on the first file, test on this one")
    parser.add_argument("--model", help="folder of a truepair model, for its ITC and ITM, alone and with evidence")
    parser.add_argument("--split", default="test", help="the photos that are judged")
    parser.add_argument("--name", default="Flickr8k, human judgements", help="of the data, on the page")
    parser.add_argument("--output", default="detectors.json")
    parser.add_argument("--ablation", action="store_true", help="also without each family of evidence")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except TruepairError as error:
        sys.exit(f"error: {error}")
