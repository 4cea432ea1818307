"""COCO's truths on scores whose columns are distinct texts, not captions."""

import json
from pathlib import Path

import torch
from PIL import Image

from truepair.data.open import open_pairs
from truepair.evaluation.coco import CocoTruth, CocoTruths
from truepair.evaluation.scores import CaptionScores, as_source
from truepair.tasks.evaluation import coco_reports
from truepair.tasks.retrieval import Ranking, RetrievalResult


def test_captions_of_one_text_are_columns_of_their_own(tmp_path: Path) -> None:
    captions = {7: ["a dog", "a cat."], 9: ["A cat", "a bird"], 8: ["a fish", "a horse"]}
    images = []
    for number, texts in captions.items():
        Image.new("RGB", (4, 4), number).save(tmp_path / f"{number}.png")
        sentences = [{"raw": text, "sentid": 10 * number + place} for place, text in enumerate(texts)]
        entry = {"cocoid": number, "imgid": 0, "filename": f"{number}.png", "split": "test"}
        images.append({**entry, "sentences": sentences})
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images}))
    table = open_pairs(str(tmp_path / "dataset.json"), format="karpathy")
    scores = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))  # a dog, a cat, a bird, a fish, a horse
    scores[0, 0] = scores[1, 2] = scores[2, 3] = 2.0  # own captions, and no copy of another's, come first
    scores[1, 1] = 1.5
    texts = torch.tensor([0, 1, 1, 2, 3, 4])
    own = CocoTruth({7: [70, 71], 9: [90, 91], 8: [80, 81]}, {70: [7], 71: [7], 90: [9], 91: [9], 80: [8], 81: [8]})
    wider = CocoTruth({7: [70, 71, 90]}, {71: [7, 9]})
    truths = CocoTruths(own, own, wider, folds=((70, 71), (90, 91), (80, 81)))
    ranking = Ranking(as_source(scores), CaptionScores(as_source(scores), texts))
    result = RetrievalResult("coco", "test", {}, None, 3, 6, 5, rankings={"similarity": ranking})
    report = coco_reports(result, table, truths)["similarity"]
    assert report.coco_5k.i2t.recall_at_1.value == 1.0
    assert report.eccv.t2i.recall_at_1.value == 1.0, "'a cat' is of the second image, which the wider truth knows"
    second = report.coco_5k.t2i.recall_at_1.value
    found = [
        scores[:, text].argmax().item() == row for text, row in zip(texts.tolist(), (0, 0, 1, 1, 2, 2), strict=True)
    ]
    assert abs(second - sum(found) / 6) < 1e-6
