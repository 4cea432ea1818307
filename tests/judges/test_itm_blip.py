from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval

from tests.judges.tiny_judges import preprocessing_of, save_albef, save_blip
from truepair.data.open import open_pairs
from truepair.data.pairs import PairDataset
from truepair.errors import CheckpointError
from truepair.judges.base import JudgeConfig, JudgeInputs
from truepair.judges.open import open_judge


def test_it_scores_as_the_model_of_transformers_on_plain_images(squares: Path, tmp_path: Path) -> None:
    table = open_pairs(squares / "pairs.jsonl")
    student = preprocessing_of(table, max_length=4)
    folder = save_blip(tmp_path, table)
    run = JudgeInputs(table=table, preprocessing=student)
    judge = open_judge(JudgeConfig(checkpoint=str(folder), kind="blip", pairs_at_once=2), run)
    rows = [40, 3, 17]
    dataset = PairDataset(table, captions="first")
    batch = student.collator()([dataset[row] for row in rows])
    images, texts = torch.tensor([0, 2, 2, 1]), torch.tensor([1, 0, 2, 2])
    scores = judge.score(batch, images, texts)

    model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
    processor, tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for place, (image, text) in enumerate(zip(images.tolist(), texts.tolist(), strict=True)):
        pixels = processor(images=table.image(rows[image]), return_tensors="pt")["pixel_values"]
        tokens = tokenizer([batch.captions[text]], return_tensors="pt")
        logits = model(tokens["input_ids"], pixels, attention_mask=tokens["attention_mask"]).itm_score
        torch.testing.assert_close(scores[place], logits.softmax(dim=1)[0, 1].detach())
    assert scores.std() > 1e-4 and not scores.requires_grad


def test_a_checkpoint_of_something_else_is_named(squares: Path, tmp_path: Path) -> None:
    table = open_pairs(squares / "pairs.jsonl")
    run = JudgeInputs(table=table, preprocessing=preprocessing_of(table))
    for folder in (save_albef(tmp_path / "albef", table), tmp_path / "none"):
        with pytest.raises(CheckpointError, match=str(folder)):
            open_judge(JudgeConfig(checkpoint=str(folder), kind="blip"), run)
