"""Tiny sets of questions and statements about squares, in the official layouts, and a checkpoint to start from."""

import itertools
import json
from pathlib import Path

import torch
from PIL import Image

from tests.data.makers import put_json
from tests.data.tasks.knowledge import aokvqa_entry, okvqa_annotation, okvqa_question, put_okvqa, without_answers
from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.tokens import train_wordpiece
from truepair.data.transforms import TransformConfig
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
TRANSFORM = TransformConfig(size=16, normalisation="none", crop_scale=(1.0, 1.0), flip=0.0, rand_augment_ops=0)
WORDS = ["what colour is it is it red or green blue yes no the left picture is red right one of pictures square small"]


def picture(colour: str, shade: int) -> Image.Image:
    return Image.new("RGB", (16, 16), tuple(value * (20 - shade) // 20 for value in COLOURS[colour]))


def write_vqa(folder: Path, shades: int = 4) -> None:
    """ "What colour is it?" of each picture, and "Is it red?"; every fourth shade is for validation and test."""
    parts: dict[str, list[tuple[int, str, list[str]]]] = {"train2014": [], "val2014": []}
    for number, (colour, shade) in enumerate(itertools.product(COLOURS, range(shades))):
        subtype = "val2014" if shade % 4 == 3 else "train2014"
        (folder / subtype).mkdir(parents=True, exist_ok=True)
        picture(colour, shade).save(folder / subtype / f"{number}.png")
        answers = [colour] * 9 + ["unheard of"]
        parts[subtype] += [
            (number, "What colour is it?", answers),
            (number, "Is it red?", ["yes" if colour == "red" else "no"] * 10),
        ]
    for subtype, rows in parts.items():
        questions = [{"question_id": 10 * i + n, "image_id": i, "question": q} for n, (i, q, _) in enumerate(rows)]
        annotations = [
            {
                "question_id": entry["question_id"],
                "answer_type": "other" if "colour" in text else "yes/no",
                "question_type": "what" if "colour" in text else "is it",
                "answers": [{"answer": answer} for answer in answers],
            }
            for entry, (_, text, answers) in zip(questions, rows, strict=True)
        ]
        head = {"data_subtype": subtype}
        (folder / f"{subtype}_questions.json").write_text(json.dumps({**head, "questions": questions}))
        (folder / f"{subtype}_annotations.json").write_text(json.dumps({**head, "annotations": annotations}))
    (folder / "answer_list.json").write_text(json.dumps([*COLOURS, "yes", "no"]))


def write_okvqa(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The questions of `write_vqa` as OK-VQA's files, with COCO's photographs as those of 2017; what a recipe reads."""
    sources = {}
    for split, subtype, shades in (("train", "train2014", range(4)), ("test", "val2014", range(4, 6))):
        asked, told = [], []
        for colour, shade in itertools.product(COLOURS, shades):
            image_id = 100 * list(COLOURS).index(colour) + shade
            path = folder / "coco" / "train2017" / f"{image_id:012d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(colour, shade).save(path)
            said = "yes" if colour == "red" else "no"
            for number, (text, answer, kind) in enumerate(
                [("What colour is it?", colour, "two"), ("Is it red?", said, "one")]
            ):
                asked.append(okvqa_question(image_id, number, text))
                told.append(okvqa_annotation(asked[-1], [answer] * 8 + ["unheard of"] * 2, kind=kind))
        files = put_okvqa(folder, subtype, asked, told)
        sources[split] = [{**files, "image_root": str(folder / "coco")}]
    return sources


def write_aokvqa(folder: Path) -> dict[str, list[dict[str, str]]]:
    """ "What colour is it?" among the colours and a fourth word, as A-OKVQA's files; what a recipe reads."""
    sources = {}
    for split, shades in (("train", range(4)), ("val", range(4, 5)), ("test", range(5, 6))):
        entries = []
        for colour, shade in itertools.product(COLOURS, shades):
            image_id = 100 * list(COLOURS).index(colour) + shade
            path = folder / "coco" / f"{split}2017" / f"{image_id:012d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(colour, shade).save(path)
            choices = [*COLOURS, "one"][image_id % 3 :] + [*COLOURS, "one"][: image_id % 3]
            entry = aokvqa_entry(
                f"{split}-{colour}-{shade}",
                image_id,
                "What colour is it?",
                choices,
                choices.index(colour),
                [colour] * 9 + ["one"],
                split=split,
                difficult_direct_answer=split == "val" and colour == "blue",
            )
            entries.append(without_answers(entry) if split == "test" else entry)
        file = put_json(folder / f"aokvqa_v1p0_{split}.json", entries)
        sources[split] = [{"questions": str(file), "image_root": str(folder / "coco")}]
    return sources


def write_nlvr2(folder: Path) -> None:
    """ "The left picture is red." of each pair of colours; half of the shades are for validation and test."""
    lines: dict[str, list[str]] = {"train": [], "dev": []}
    numbers = {"train": itertools.count(), "dev": itertools.count()}
    for left, right, shade in itertools.product(COLOURS, COLOURS, range(4)):
        split = "dev" if shade == 3 else "train"
        (folder / split).mkdir(parents=True, exist_ok=True)
        number = next(numbers[split])
        for side, colour in enumerate((left, right)):
            picture(colour, shade).save(folder / split / f"{split}-{number}-0-img{side}.png")
        for sentence, colour in enumerate(COLOURS):
            entry = {"identifier": f"{split}-{number}-0-{sentence}", "sentence": f"The left picture is {colour}."}
            lines[split].append(json.dumps({**entry, "label": str(left == colour)}))
    for split, rows in lines.items():
        (folder / f"{split}.json").write_text("\n".join(rows))


def write_checkpoint(folder: Path, **fields: object) -> Path:
    """An untrained ALBEF with its tokenization."""
    tokenizer = train_wordpiece(WORDS, min_frequency=1)
    torch.manual_seed(0)
    config = AlbefConfig(
        image_encoder={
            "model_type": "vit",
            "image_size": 16,
            "patch_size": 8,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=64,
        text_layers=1,
        fusion_layers=1,
        embed_dim=16,
        max_position_embeddings=20,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        **fields,
    )
    model = AlbefModel(config)
    model.save_pretrained(folder)
    OwnPreprocessing(tokenizer, 12, True, True, TRANSFORM).save(folder)
    return folder
