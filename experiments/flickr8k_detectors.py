"""Question 6 of the study: detectors of hidden matches against people's judgements of photos with several captions.

    python experiments/flickr8k_detectors.py --data DIR/dataset_flickr8k.json --judgements DIR/human_judgements.jsonl

Detectors are fitted by cross-validation over photos; with ``--test-judgements FILE`` on the first file, and tested on
the second. Own pairs and nearly matching ones are left out. Writes ``detectors.json`` for ``truepair study``.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.cli.run_folder import quiet_libraries
from truepair.data.judgements import read_judgements
from truepair.data.open import open_pairs
from truepair.errors import TruepairError
from truepair.evaluation.detectors import average_precision_interval, brier_score, detector_metrics, reliability
from truepair.judges.signals import SignalJudge
from truepair.mining.signals.encoded import Encoded
from truepair.mining.signals.families import compute_signals, usual_families
from truepair.mining.signals.spaces import caption_space, list_means, ridge
from truepair.mining.signals.words import WordStatistics
from truepair.models.fusion.gallery import GalleryMatcher, encode_captions, encode_images
from truepair.models.open import open_model
from truepair.relations.pairs import PairSet
from truepair.tasks.encoding import EncodingConfig, encode_gallery
from truepair.tasks.retrieval import ImageSource

EVIDENCE = ("alignment", "learned_captions", "hubness", "kinds")
"""Families that the judge of captions reads."""

Floats = NDArray[np.float32]

FOLDS = 10
HALVES = 5


def encoded_photos(data: str, split: str, train: Encoded | None = None) -> Encoded:
    """A split, encoded; rarity of words and the space of captions are those of the training photos."""
    table = open_pairs(data, split=split)
    if train is None:
        return encode_gallery(table, EncodingConfig(alignment=False), print)
    statistics = WordStatistics.of(train.gallery.texts[number] for number in train.gallery.captions.values)
    space = caption_space(train.captions, train.gallery.captions)
    return encode_gallery(table, EncodingConfig(), print, statistics=statistics, space=space)


def read_judged(path: str, photos: Encoded) -> PairSet:
    """Judged pairs of a split, without own and nearly matching ones; values are 1 for matches."""
    gallery = photos.gallery
    pictures = dict(zip(gallery.image_ids.values.tolist(), gallery.image_ids.owners.tolist(), strict=True))
    captions = dict(zip(gallery.caption_ids.values.tolist(), gallery.caption_ids.owners.tolist(), strict=True))
    found = [
        (pictures[item.image_id], captions[item.caption_id], item.label == "match")
        for item in read_judgements(path)
        if item.image_id in pictures and item.caption_id in captions and item.label != "near"
    ]
    rows, columns, labels = (torch.tensor(column) for column in zip(*found, strict=True))
    crossed = torch.from_numpy(~gallery.is_declared(rows.numpy(), columns.numpy()))
    shape = (len(gallery), len(gallery.texts))
    return PairSet(rows[crossed], columns[crossed], labels[crossed].float(), shape)


def labels_of(judged: PairSet) -> Tensor:
    """Which judged pairs are matches, bool [P]."""
    return judged.values > 0.5


def single_detectors(photos: Encoded, train: Encoded, pairs: PairSet) -> dict[str, Tensor]:
    """Scores of detectors that need no judgement."""
    families, _ = usual_families(photos, ("captions", "alignment"))
    signals, names = compute_signals(pairs.rows.numpy(), pairs.columns.numpy(), families)
    assert train.images is not None and photos.images is not None and photos.tokens is not None
    own = train.gallery.captions
    predicted = ridge(train.images, list_means(train.captions, own))(photos.images)  # [N, D]
    captions = torch.nn.functional.normalize(photos.captions - train.captions[own.values].mean(dim=0), dim=1)
    last = photos.tokens.layers
    found = {
        "guide similarity, best own caption": "captions/best",
        "guide similarity, mean of own captions": "captions/mean",
        "token alignment, last layer": f"alignment/{last} of {last} mean",
    }
    scores = {name: torch.from_numpy(signals[:, names.index(column)]) for name, column in found.items()}
    return scores | {"image to caption, ridge regression": (predicted[pairs.rows] * captions[pairs.columns]).sum(dim=1)}


def model_detectors(folder: Path, photos: Encoded, pairs: PairSet) -> dict[str, Tensor]:
    """Scores of a trained model: similarity of its ITC features, and its ITM head."""
    trained = open_model(folder)
    model, collator = trained.model.eval(), trained.preprocessing.collator()
    transform, gallery = trained.preprocessing.images(), photos.gallery
    table = gallery.table.select(gallery.rows)
    images = encode_images(model, ImageSource(table, transform=transform).batches())
    judge = GalleryMatcher(model, images, encode_captions(model, list(gallery.texts), collator.encode))
    found = {"image to caption, ITC": (images.features[pairs.rows] * judge.captions.features[pairs.columns]).sum(dim=1)}
    if model.itm_trained:
        order = pairs.rows.argsort()
        log_odds = torch.cat([judge(pairs.rows[some], pairs.columns[some]) for some in order.split(256)])
        found["con-D, ITM"] = log_odds[order.argsort()]
    return found


def cross_validated(evidence: Floats, judged: PairSet, *, folds: int = FOLDS, seed: int = 0) -> Tensor:
    """Probability of each pair, by a judge that saw no judgement of its photo [P]."""
    photos, photo = judged.rows.unique(return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    fold = (torch.randperm(len(photos), generator=generator) % folds)[photo]  # [P]
    found = torch.zeros(len(labels_of(judged)), dtype=torch.float64)
    for number in range(folds):
        found[fold == number] = fitted_elsewhere(evidence, labels_of(judged), fold != number)
    return found


def fitted_elsewhere(evidence: Floats, labels: Tensor, seen: Tensor) -> Tensor:
    """Probabilities of the unseen pairs, by a judge fitted on those seen, bool [P]."""
    judge = SignalJudge.fit(evidence[seen.numpy()], labels[seen])
    return judge.probabilities(evidence[~seen.numpy()])


def on_halves(evidence: Floats, judged: PairSet) -> list[float]:
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


def ablation(evidence: Floats, names: Sequence[str], judged: PairSet) -> dict[str, float]:
    """Average precision of the combination without each family."""
    print("\n| without | columns | average precision |\n|---|---|---|")
    found = {}
    of_column = np.array([name.partition("/")[0] for name in names])
    for family in dict.fromkeys(of_column.tolist()):
        rest = evidence[:, of_column != family]
        found[family] = detector_metrics(cross_validated(rest, judged), labels_of(judged)).average_precision
        print(f"| {family} | {evidence.shape[1] - rest.shape[1]} | {found[family]:.3f} |", flush=True)
    return found


def main() -> None:
    """Measure, print tables in Markdown, write ``detectors.json``."""
    options = arguments()
    quiet_libraries()
    train = encoded_photos(options.data, "train")
    photos = encoded_photos(options.data, options.split, train)
    families, _ = usual_families(photos, EVIDENCE)
    judged = read_judged(options.judgements, photos)
    evidence, names = compute_signals(judged.rows.numpy(), judged.columns.numpy(), families)
    if options.test_judgements:
        known = SignalJudge.fit(evidence, labels_of(judged))
        judged = read_judged(options.test_judgements, photos)
        evidence, names = compute_signals(judged.rows.numpy(), judged.columns.numpy(), families)
        probabilities = known.probabilities(evidence)
    else:
        probabilities = cross_validated(evidence, judged)
    scores = single_detectors(photos, train, judged)
    scores["all evidence on captions"] = probabilities
    if options.model:
        found = model_detectors(Path(options.model), photos, judged)
        scores |= found
        if not options.test_judgements:
            combined = np.concatenate([evidence, torch.stack(list(found.values()), dim=1).numpy()], axis=1)
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
        result["without"] = ablation(evidence, names, judged)
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
