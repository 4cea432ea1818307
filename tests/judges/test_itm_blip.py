from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, Blip2ForImageTextRetrieval, BlipForImageTextRetrieval

from tests.judges.tiny_judges import preprocessing_of, save_albef, save_blip, save_blip2
from truepair.data.open import open_pairs
from truepair.data.pairs import PairDataset
from truepair.errors import CheckpointError
from truepair.judges.base import JudgeConfig, JudgeInputs
from truepair.judges.open import open_judge


@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_it_scores_as_the_model_of_transformers_on_plain_images(kind: str, squares: Path, tmp_path: Path) -> None:
    table = open_pairs(squares / "pairs.jsonl")
    student = preprocessing_of(table, max_length=4)
    folder = (save_blip if kind == "blip" else save_blip2)(tmp_path, table)
    run = JudgeInputs(table=table, preprocessing=student)
    judge = open_judge(JudgeConfig(checkpoint=str(folder), kind=kind, pairs_at_once=2), run)
    rows = [40, 3, 17]
    dataset = PairDataset(table, captions="first")
    batch = student.collator()([dataset[row] for row in rows])
    images, texts = torch.tensor([0, 2, 2, 1]), torch.tensor([1, 0, 2, 2])
    scores = judge.score(batch, images, texts)

    library = BlipForImageTextRetrieval if kind == "blip" else Blip2ForImageTextRetrieval
    head = {} if kind == "blip" else {"use_image_text_matching_head": True}
    model = library.from_pretrained(folder).eval()
    processor, tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for place, (image, text) in enumerate(zip(images.tolist(), texts.tolist(), strict=True)):
        pixels = processor(images=table.image(rows[image]), return_tensors="pt")["pixel_values"]
        tokens = tokenizer([batch.captions[text]], return_tensors="pt")
        said = model(**tokens, pixel_values=pixels, **head)
        logits = said.itm_score if kind == "blip" else said.logits_per_image
        torch.testing.assert_close(scores[place], logits.softmax(dim=1)[0, 1].detach())
    assert scores.std() > 1e-4 and not scores.requires_grad


@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_a_checkpoint_of_something_else_is_named(kind: str, squares: Path, tmp_path: Path) -> None:
    table = open_pairs(squares / "pairs.jsonl")
    run = JudgeInputs(table=table, preprocessing=preprocessing_of(table))
    other = (save_blip2 if kind == "blip" else save_blip)(tmp_path / "other", table)
    for folder in (save_albef(tmp_path / "albef", table), other, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=str(folder)):
            open_judge(JudgeConfig(checkpoint=str(folder), kind=kind), run)
